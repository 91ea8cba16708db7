package template

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/debian"
)

// suite is the Debian release of the base template.
const suite = "trixie"

// npm is the version of npm in the base template with the SHA-512 of its
// package, as corepack takes it: the last that runs on the nodejs of the suite.
const npm = "10.9.9+sha512.d60fba8cb42f688b81e33c2f1cbef2ad7b977166700ec0ad057f1b6d60ea6ef2524abf673e20c35931cd8305d1dbb8887134d6eefdc0e7b8435bd458bf65b862"

// packages are what the base template has beside Debian's smallest system.
// Their recommendations are left out.
var packages = []string{
	"bash", "coreutils", "procps", "iproute2", "netbase", "less",
	"ca-certificates", "curl", "git", "openssh-client", "sudo",
	"python3", "python3-pip", "python3-venv", "python-is-python3", "nodejs",
}

// dpkgOptions keep the image small; what is installed later inside of a sandbox
// follows them too. Licences stay.
var dpkgOptions = []string{
	"path-exclude=/usr/share/doc/*",
	"path-include=/usr/share/doc/*/copyright",
	"path-exclude=/usr/share/man/*",
	"path-exclude=/usr/share/info/*",
	"path-exclude=/usr/share/locale/*",
	"path-include=/usr/share/locale/locale.alias",
}

//go:embed customize.sh
var customize string

// RecipeHash names what the base template is built from: two hosts with equal
// hashes may share a built image.
func RecipeHash() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n%s\n%s", suite, npm,
		strings.Join(packages, " "), strings.Join(dpkgOptions, " "), customize)
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// bootstrap is the build of the base template from a mirror.
func bootstrap(m debian.Mirror) debian.Bootstrap {
	return debian.Bootstrap{
		Suite: suite, Packages: packages, Mirror: m,
		DpkgOptions: []string{"force-unsafe-io"}, // a build that is cut off is thrown away
		Env: []string{
			"SANDLOT_DPKG=" + strings.Join(dpkgOptions, "\n"),
			"SANDLOT_NPM=" + npm,
			"SANDLOT_SOURCES=" + strings.Join(m.Public().Lines(suite), "\n"),
		},
	}
}

// Requirement is something building templates needs of the host.
type Requirement struct {
	// Program is found on PATH, or is an absolute path that must exist.
	Program string `json:"program"`
	// Package is the Debian and Ubuntu package that brings it.
	Package string `json:"package"`
	Why     string `json:"why"`
}

// Requirements lists what EnsureBase needs. All of it comes from the
// distribution's own packages.
func Requirements() []Requirement {
	return []Requirement{
		{"mmdebstrap", "mmdebstrap", "builds the base template from Debian packages"},
		{debian.Keyring, "debian-archive-keyring", "checks that Debian packages are Debian's"},
		{"gpg", "gpg", "lets mmdebstrap choose the right archive key on hosts that are not Debian"},
	}
}
