package debian

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// host makes the files of a host and reads them.
func host(t *testing.T, files map[string]string) Host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ReadHost(root)
}

const (
	release  = "NAME=\"Debian\"\nID=debian\nVERSION_CODENAME=bookworm\n"
	official = "Types: deb\nURIs: http://m.test/debian/\nSuites: bookworm bookworm-updates\nComponents: main\n" +
		"Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n" +
		"Types: deb\nURIs: http://m.test/debian-security\nSuites: bookworm-security\nComponents: main\n"
	sourcesD = "etc/apt/sources.list.d/"
)

func TestMirror(t *testing.T) {
	found := Mirror{Main: "http://m.test/debian", Security: "http://m.test/debian-security"}
	tests := map[string]struct {
		files map[string]string
		want  Mirror
	}{
		"deb822": {map[string]string{"etc/os-release": release, sourcesD + "debian.sources": official}, found},
		"one line": {map[string]string{
			"etc/os-release": release,
			"etc/apt/sources.list": "deb http://m.test/debian bookworm main\ndeb http://m.test/debian bookworm-updates main\n" +
				"deb http://m.test/debian-security bookworm-security main\n",
		}, found},
		"another archive with the same suite comes first": {map[string]string{
			"etc/os-release":              release,
			"etc/apt/sources.list":        "deb http://unsigned-other.test/apt bookworm main\n",
			sourcesD + "aaa.list":         "deb [signed-by=/usr/share/keyrings/other.gpg] http://other.test/debian bookworm main\n",
			sourcesD + "debian.sources":   official,
			sourcesD + "unrelated.list":   "deb http://other.test/apt stable main\n",
			sourcesD + "ignored.disabled": "deb http://ignored.test/debian bookworm main\n",
		}, found},
		"only another archive": {map[string]string{
			"etc/os-release":     release,
			sourcesD + "a.list":  "deb [signed-by=/usr/share/keyrings/other.gpg] http://other.test/debian bookworm main\n",
			sourcesD + "b.list":  "deb cdrom:[Debian]/ bookworm main\n",
			sourcesD + "c.list":  "deb http://m.test/debian bookworm contrib\n",
			sourcesD + "d.list":  "deb http://m.test/debian trixie main\n",
			sourcesD + "bad.txt": "deb http://m.test/debian bookworm main\n",
		}, Mirror{}},
		"cloud image": {map[string]string{
			"etc/os-release": release,
			sourcesD + "debian.sources": "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n" +
				"Suites: bookworm bookworm-updates\nComponents: main\n",
			"etc/apt/mirrors/debian.list": "# the mirrors\nhttps://cloud.test/debian priority:1\nhttps://second.test/debian\n",
		}, Mirror{Main: "https://cloud.test/debian"}},
		"cloud image without its list": {map[string]string{
			"etc/os-release":       release,
			"etc/apt/sources.list": "deb mirror+file:/etc/apt/none bookworm main\n",
		}, Mirror{}},
		"not Debian": {map[string]string{
			"etc/os-release":           "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n",
			sourcesD + "ubuntu.list":   "deb http://m.test/ubuntu noble main\n",
			sourcesD + "some.list":     "deb http://m.test/debian bookworm main\n",
			sourcesD + "other.sources": official,
		}, Mirror{}},
		"no files": {nil, Mirror{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, host(t, tt.files).Mirror()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestMirrorLines(t *testing.T) {
	const by = "deb [signed-by=" + Keyring + "] "
	m := Mirror{Main: "http://user:secret@m.test/debian", Security: "http://user:secret@m.test/s"}
	want := []string{
		by + "http://m.test/debian trixie main",
		by + "http://m.test/debian trixie-updates main",
		by + "http://m.test/s trixie-security main",
	}
	if d := cmp.Diff(want, m.Public().Lines("trixie")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff(want[:2], Mirror{Main: "http://m.test/debian"}.Lines("trixie")); d != "" {
		t.Errorf("without security (-want +got):\n%s", d)
	}
	if got := (Mirror{}).Public().Lines("trixie"); got != nil {
		t.Errorf("the default has lines: %v", got)
	}
}

func TestParseMirror(t *testing.T) {
	for text, want := range map[string]Mirror{
		"":                                     {},
		" http://m.test/debian ":               {Main: "http://m.test/debian"},
		"https://m.test/debian file:///srv/s ": {Main: "https://m.test/debian", Security: "file:///srv/s"},
	} {
		if got, err := ParseMirror(text); err != nil || got != want {
			t.Errorf("ParseMirror(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, bad := range []string{"m.test/debian", "http:", "gopher://m.test/", "http://a/ http://b/ http://c/", "http://[::1"} {
		if _, err := ParseMirror(bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("ParseMirror(%q): %v, want %v", bad, err, errs.Invalid)
		}
	}
}

func TestFetchOptions(t *testing.T) {
	const dump = `APT::Architecture "amd64";
Acquire "";
Acquire::Languages:: "none";
Acquire::GzipIndexes "true";
Acquire::AllowInsecureRepositories "1";
Acquire::http::Proxy "http://proxy.test:3128";
Acquire::HTTP::Proxy::m.test "DIRECT";
Acquire::https::CaInfo "/etc/ca with space.pem";
Acquire::httpsomething "x";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
`
	want := []string{
		`Acquire::http::Proxy "http://proxy.test:3128"`,
		`Acquire::HTTP::Proxy::m.test "DIRECT"`,
		`Acquire::https::CaInfo "/etc/ca with space.pem"`,
		`Acquire::Check-Valid-Until "false"`,
		`Acquire::Retries "3"`,
	}
	if d := cmp.Diff(want, fetchOptions(dump)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
