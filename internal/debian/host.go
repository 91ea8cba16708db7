package debian

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Keyring is where Debian's archive keys lie on every host that has the package
// debian-archive-keyring, and in every Debian system.
const Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Mirror is where packages come from. The zero value means mmdebstrap's own
// default, which is Debian's public mirror.
type Mirror struct {
	// Main serves the suite and its updates, Security its security updates;
	// Security may be empty.
	Main, Security string
}

// ParseMirror reads a mirror as people write it: the address of the archive
// and, after a space, optionally that of the security archive.
func ParseMirror(text string) (Mirror, error) {
	fields := strings.Fields(text)
	if len(fields) > 2 {
		return Mirror{}, errs.New(errs.Invalid, "a Debian mirror is one address, or two with that of the security archive")
	}
	for _, f := range fields {
		u, err := url.Parse(f)
		if err != nil || !slices.Contains(mirrorSchemes, u.Scheme) || u.Host+u.Path == "" {
			return Mirror{}, errs.New(errs.Invalid, "%q is not the address of a Debian mirror", f).
				WithHint("it looks like http://HOST/debian")
		}
	}
	fields = append(fields, "", "")
	return Mirror{Main: fields[0], Security: fields[1]}, nil
}

var mirrorSchemes = []string{"http", "https", "file", "copy", "ftp"}

// Lines returns the sources of a suite in one-line format, nil for the default.
func (m Mirror) Lines(suite string) []string {
	if m.Main == "" {
		return nil
	}
	deb := "deb [signed-by=" + Keyring + "] "
	lines := []string{
		deb + m.Main + " " + suite + " main",
		deb + m.Main + " " + suite + "-updates main",
	}
	if m.Security != "" {
		lines = append(lines, deb+m.Security+" "+suite+"-security main")
	}
	return lines
}

// Public returns the mirror without user names and passwords, for files that
// sandboxes can read.
func (m Mirror) Public() Mirror { return Mirror{withoutUser(m.Main), withoutUser(m.Security)} }

func withoutUser(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return address
	}
	u.User = nil
	return u.String()
}

// Host is what a host says about itself and its package sources.
type Host struct {
	// ID and Codename are those of os-release(5), e.g. "debian" and "trixie".
	ID, Codename string
	Sources      []Source
	root         string
}

// ReadHost reads the host's files below root, "/" for the running host. Files
// that are missing or unreadable count as empty.
func ReadHost(root string) Host {
	h := Host{root: root}
	release := h.read("etc/os-release")
	h.ID = releaseField(release, "ID")
	h.Codename = releaseField(release, "VERSION_CODENAME")
	h.Sources = ParseList(h.read("etc/apt/sources.list"))
	for _, name := range h.glob("*.list") {
		h.Sources = append(h.Sources, ParseList(h.read(name))...)
	}
	for _, name := range h.glob("*.sources") {
		h.Sources = append(h.Sources, ParseSources(h.read(name))...)
	}
	return h
}

func (h Host) read(name string) string {
	b, err := os.ReadFile(filepath.Join(h.root, name))
	if err != nil {
		return ""
	}
	return string(b)
}

func (h Host) glob(pattern string) []string {
	const dir = "etc/apt/sources.list.d"
	found, _ := filepath.Glob(filepath.Join(h.root, dir, pattern)) // fails only on a bad pattern
	for i, f := range found {
		found[i] = filepath.Join(dir, filepath.Base(f))
	}
	return found
}

func releaseField(text, name string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// Mirror returns the mirrors a Debian host is configured with: those of the
// sources that hold its own release. On any other host, and where nothing fits,
// it returns the zero Mirror, the default.
func (h Host) Mirror() Mirror {
	if h.ID != "debian" || h.Codename == "" {
		return Mirror{}
	}
	return Mirror{
		Main:     h.address(h.Codename, h.Codename+"-updates"),
		Security: h.address(h.Codename+"-security", ""),
	}
}

// address picks the address of the official archive that serves suite. Others
// publish packages under the same suite and component names, but sign with
// their own keys and have no updates suite beside it.
func (h Host) address(suite, sibling string) string {
	best, bestRank := "", 0
	for _, s := range h.Sources {
		if !s.Has(suite, "main") || !officialKey(s.SignedBy) {
			continue
		}
		for _, uri := range s.URIs {
			uri = h.resolve(uri)
			rank := 1
			if sibling != "" && h.serves(uri, sibling) {
				rank = 2
			}
			if uri != "" && rank > bestRank {
				best, bestRank = uri, rank
			}
		}
	}
	return best
}

func officialKey(signedBy string) bool {
	return signedBy == "" || strings.Contains(signedBy, "debian-archive-")
}

func (h Host) serves(uri, suite string) bool {
	return slices.ContainsFunc(h.Sources, func(s Source) bool {
		return s.Has(suite, "main") && slices.ContainsFunc(s.URIs, func(u string) bool {
			return h.resolve(u) == uri
		})
	})
}

// resolve returns an address a build and a sandbox can use, or nothing. Cloud
// images of Debian name a file that lists the mirrors; its first line counts.
func (h Host) resolve(uri string) string {
	if list, ok := strings.CutPrefix(uri, "mirror+file:"); ok {
		uri = ""
		for line := range strings.Lines(h.read("/" + strings.TrimLeft(list, "/"))) {
			line, _, _ = strings.Cut(line, "#")
			if fields := strings.Fields(line); len(fields) > 0 {
				uri = fields[0]
				break
			}
		}
	}
	if _, err := ParseMirror(uri); err != nil {
		return ""
	}
	return strings.TrimRight(uri, "/")
}

// AptOptions returns the host's apt options that say how to fetch (proxies,
// timeouts, certificates, retries), as mmdebstrap's --aptopt takes them. A host
// without apt has none.
func AptOptions(ctx context.Context) []string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil
	}
	return fetchOptions(string(out))
}

// fetchOptions filters the output of apt-config dump.
func fetchOptions(dump string) []string {
	var options []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSuffix(strings.TrimSpace(line), ";")
		name, value, ok := strings.Cut(line, " ")
		if !ok || value == `""` || strings.HasSuffix(name, "::") {
			continue
		}
		if slices.ContainsFunc(fetchNames, func(p string) bool {
			return strings.EqualFold(name, p) || strings.HasPrefix(strings.ToLower(name), p+"::")
		}) {
			options = append(options, line)
		}
	}
	return options
}

// fetchNames are the options about fetching, in lower case: apt does not care.
var fetchNames = []string{
	"acquire::http", "acquire::https", "acquire::ftp", "acquire::socks",
	"acquire::retries", "acquire::forceipv4", "acquire::forceipv6",
	"acquire::check-valid-until", "acquire::check-date", "acquire::max-futuretime",
	"acquire::queue-mode", "acquire::by-hash",
}
