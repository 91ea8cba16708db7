package debian

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSources(t *testing.T) {
	const text = `# the archive
Types: deb
# a comment inside a stanza
URIs: http://mirror.test/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

types: deb deb-src
uris: http://a.test/x
 http://b.test/y
suites: stable
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF

Types: deb-src
URIs: http://sources.test/
Suites: trixie
Components: main

Types: deb
Enabled: No
URIs: http://off.test/
Suites: trixie
Components: main

Types: deb
Suites: trixie
 orphaned continuation of nothing sensible
`
	want := []Source{
		{
			URIs: []string{"http://mirror.test/debian"}, Suites: []string{"trixie", "trixie-updates"},
			Components: []string{"main", "contrib"}, SignedBy: "/usr/share/keyrings/debian-archive-keyring.gpg",
		},
		{
			URIs: []string{"http://a.test/x", "http://b.test/y"}, Suites: []string{"stable"},
			Components: []string{"main"}, SignedBy: "-----BEGIN PGP PUBLIC KEY BLOCK-----\n.\nmQINBF",
		},
	}
	if d := cmp.Diff(want, ParseSources(text)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff(want, ParseSources(strings.ReplaceAll(text, "\n", "\r\n"))); d != "" {
		t.Errorf("with carriage returns (-want +got):\n%s", d)
	}
}

func TestParseList(t *testing.T) {
	tests := map[string][]Source{
		"deb http://m.test/debian trixie main contrib # text": {
			{URIs: []string{"http://m.test/debian"}, Suites: []string{"trixie"}, Components: []string{"main", "contrib"}},
		},
		"  deb\t[arch=amd64 Signed-By=/K.gpg]  http://m.test/ trixie main": {
			{URIs: []string{"http://m.test/"}, Suites: []string{"trixie"}, Components: []string{"main"}, SignedBy: "/K.gpg"},
		},
		"deb [ trusted=yes ] http://m.test/ ./":    {{URIs: []string{"http://m.test/"}, Suites: []string{"./"}, Components: []string{}}},
		"deb-src http://m.test/debian trixie main": nil,
		"# deb http://m.test/debian trixie main":   nil,
		"deb [signed-by=/k http://m.test/ trixie":  nil,
		"deb http://m.test/debian":                 nil,
		"deb":                                      nil, "debris http://m.test trixie": nil, "": nil,
	}
	for line, want := range tests {
		if d := cmp.Diff(want, ParseList(line)); d != "" {
			t.Errorf("%q (-want +got):\n%s", line, d)
		}
	}
}

func FuzzSources(f *testing.F) {
	f.Add("Types: deb\nURIs: http://m.test/\nSuites: a\n")
	f.Add("deb [signed-by=/k] http://m.test/ trixie main\n")
	f.Add(" x\n:\n\n::\nTypes:deb\n\tdeb")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range append(ParseSources(text), ParseList(text)...) {
			if len(s.URIs) == 0 || len(s.Suites) == 0 {
				t.Errorf("%q gives a source without address or suite: %+v", text, s)
			}
			for _, uri := range s.URIs {
				if strings.ContainsAny(uri, " \t\n") || uri == "" {
					t.Errorf("%q gives the address %q", text, uri)
				}
			}
		}
		fetchOptions(text)
	})
}
