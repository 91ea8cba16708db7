package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

func env(pairs map[string]string) func(string) string {
	return func(name string) string { return pairs[name] }
}

func writeFile(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, FileName)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultIsValidAndAgreesWithTheVocabulary(t *testing.T) {
	c := Default()
	if err := c.Validate(); err != nil {
		t.Errorf("Default().Validate() = %v", err)
	}
	want := sandbox.DefaultLimits()
	got := sandbox.Limits{
		CPUs: c.Limits.CPUs, CPUShares: want.CPUShares, PIDs: c.Limits.PIDs,
		MemoryBytes: c.Limits.Memory.Bytes(), SwapBytes: c.Limits.Swap.Bytes(), DiskBytes: c.Limits.Disk.Bytes(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits differ from sandbox.DefaultLimits (-sandbox +config):\n%s", diff)
	}
}

func TestLaterSourcesWin(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, dir, `
addr = "127.0.0.1:1"
log_level = "warn"
driver = "namespace"
[pool]
max = 3
[limits]
memory = "256M"
disk = 1073741824
[network]
dns = ["10.0.0.1"]
`)
	l, err := Load(Sources{
		Env:   env(map[string]string{"SANDLOT_DATA_DIR": dir, "SANDLOT_ADDR": "127.0.0.1:2", "SANDLOT_POOL_MAX": "4", "SANDLOT_MAX_TIMEOUT": "1d"}),
		Flags: map[string]string{"addr": "127.0.0.1:3"},
	})
	if err != nil {
		t.Fatal(err)
	}
	origins := map[string]string{}
	for _, s := range l.Settings() {
		origins[s.Key] = s.Origin
	}
	want := map[string]string{
		"addr": "--addr", "data_dir": "SANDLOT_DATA_DIR", "pool.max": "SANDLOT_POOL_MAX", "log_level": path,
		"limits.memory": path, "limits.disk": path, "network.dns": path, "limits.cpus": "default", "max_timeout": "SANDLOT_MAX_TIMEOUT",
	}
	for key, origin := range want {
		if origins[key] != origin {
			t.Errorf("origin of %s = %q, want %q", key, origins[key], origin)
		}
	}
	wanted := Default()
	wanted.Addr, wanted.DataDir, wanted.LogLevel, wanted.MaxTimeout = "127.0.0.1:3", dir, "warn", Day
	wanted.Pool.Max, wanted.Limits.Memory, wanted.Limits.Disk = 4, 256*MiB, GiB
	wanted.Network.DNS = []string{"10.0.0.1"}
	if diff := cmp.Diff(wanted, l.Config); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		env, flags map[string]string
		want       []string
	}{
		{name: "unknown key", file: "adr = 'x'", want: []string{`unknown key "adr"`, FileName}},
		{name: "unknown nested key", file: "[pool]\nmin = 1", want: []string{`unknown key "pool.min"`}},
		{name: "wrong type", file: "max_sandboxes = 'many'", want: []string{FileName, "max_sandboxes"}},
		{name: "bad size", file: "[limits]\nmemory = '1X'", want: []string{FileName, "is not a size"}},
		{name: "not TOML", file: "= =", want: []string{FileName}},
		{name: "data directory in its own file", file: "data_dir = '/elsewhere'", want: []string{"data_dir cannot be set"}},
		{name: "bad environment", env: map[string]string{"SANDLOT_POOL_OFF": "maybe"}, want: []string{"SANDLOT_POOL_OFF", "maybe"}},
		{name: "bad flag", flags: map[string]string{"max_sandboxes": "-x"}, want: []string{"--max-sandboxes"}},
		{name: "bad address", flags: map[string]string{"addr": "nowhere"}, want: []string{"addr:", "host:port"}},
		{name: "several", flags: map[string]string{"log_level": "loud", "limits.cpus": "0"}, want: []string{"log_level", "limits.cpus"}},
		{name: "too little", flags: map[string]string{"max_sandboxes": "-1", "pool.max": "-1", "max_timeout": "0s"}, want: []string{"max_sandboxes: -1 is less than 0", "pool.max", "max_timeout"}},
		{
			name: "too much",
			flags: map[string]string{
				"max_sandboxes": "8193", "pool.max": "8193", "max_timeout": "36501d", "limits.cpus": "1025",
				"limits.memory": "1025T", "limits.swap": "8388607T", "limits.disk": "1025T", "limits.pids": "9223372036854775807",
			},
			want: []string{
				"max_sandboxes: 8193 is more than 8192", "pool.max", "max_timeout", "limits.cpus", "limits.memory", "limits.swap",
				"limits.disk", "limits.pids",
			},
		},
		{name: "bad DNS", env: map[string]string{"SANDLOT_NETWORK_DNS": "1.1.1.1,dns.example"}, want: []string{"network.dns", "dns.example"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, tt.file)
			if tt.flags == nil {
				tt.flags = map[string]string{}
			}
			tt.flags["data_dir"] = dir
			_, err := Load(Sources{Env: env(tt.env), Flags: tt.flags})
			if !errs.Is(err, errs.Invalid) {
				t.Fatalf("Load = %v, want an error of kind invalid", err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not name %q", err, part)
				}
			}
		})
	}
}

func TestNamedFileMustExist(t *testing.T) {
	if _, err := Load(Sources{File: filepath.Join(t.TempDir(), "none.toml")}); !errs.Is(err, errs.Invalid) {
		t.Errorf("Load = %v, want an error of kind invalid", err)
	}
	path := writeFile(t, t.TempDir(), "data_dir = '/elsewhere'")
	l, err := Load(Sources{File: path})
	if err != nil || l.DataDir != "/elsewhere" {
		t.Errorf("Load = %q, %v; want /elsewhere", l.DataDir, err)
	}
}

func TestDerive(t *testing.T) {
	for _, tt := range []struct {
		memory    Size
		sandboxes int
		pool      int
	}{{64 * MiB, 8, 1}, {2 * GiB, 128, 8}, {24 * GiB, 1536, 32}, {4 * TiB, 8192, 32}} {
		l := Loaded{Config: Default(), origins: map[string]string{}}
		for range 2 {
			l.Derive(tt.memory.Bytes())
			if l.MaxSandboxes != tt.sandboxes || l.Pool.Max != tt.pool {
				t.Errorf("Derive(%s) = %d sandboxes, pool of %d; want %d, %d", tt.memory, l.MaxSandboxes, l.Pool.Max, tt.sandboxes, tt.pool)
			}
		}
		if i := slices.IndexFunc(l.Settings(), func(s Setting) bool { return s.Key == "pool.max" }); l.Settings()[i].Origin != "derived from max_sandboxes" {
			t.Errorf("origin = %q", l.Settings()[i].Origin)
		}
	}
}

func TestSwapIsNotNegative(t *testing.T) {
	c := Default()
	c.Limits.Swap = -1 // no text reads as this
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "limits.swap") {
		t.Errorf("Validate = %v", err)
	}
}

func TestDomain(t *testing.T) {
	for _, tt := range []struct {
		domain    string
		port      int
		name      string
		published string
	}{
		{"", 7280, "localhost", "localhost:7280"},
		{"", 443, "localhost", "localhost"},
		{"Sandlot.Example", 7280, "sandlot.example", "sandlot.example:7280"},
		{"sandlot.example", 443, "sandlot.example", "sandlot.example"},
		{"sandlot.example:443", 7280, "sandlot.example", "sandlot.example"},
		{"sandlot.example:8443", 7280, "sandlot.example", "sandlot.example:8443"},
		{"localhost", 7280, "localhost", "localhost:7280"},
		{"box", 7280, "box", "box:7280"},
	} {
		c := Default()
		c.Domain = tt.domain
		if err := c.Validate(); err != nil {
			t.Errorf("Validate(%q) = %v", tt.domain, err)
		}
		if name, published := c.DomainName(), c.PublishedDomain(tt.port); name != tt.name || published != tt.published {
			t.Errorf("%q at port %d: %q, %q; want %q, %q", tt.domain, tt.port, name, published, tt.name, tt.published)
		}
	}
}

func TestBadDomains(t *testing.T) {
	for _, domain := range []string{
		"https://x.example", "x.example/", ".x.example", "x..example", "x example", "-x.example", "*.x.example", ":443",
		"x.example:", "x.example:0", "x.example:65536", "x.example:http", "10.1.2.3", "::1", "[::1]:443", "é.example",
		strings.Repeat("a.", 95) + "example",
	} {
		c := Default()
		c.Domain = domain
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "domain: ") {
			t.Errorf("Validate(%q) = %v", domain, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct {
		file string
		want string
	}{
		{"domain = 'x.example'\n[tls]\ncert = '/c'\nkey = '/k'", ""},
		{"domain = 'x.example'\n[tls]\nacme = true\nacme_email = 'a@x.example'\nacme_ca = 'https://ca.example/dir'", ""},
		{"[dns]\naddr = '127.0.0.1:53'", ""},
		{"[dns]\naddr = '127.0.0.1:53'\nanswer = ['192.0.2.1', '::1']", ""},
		{"[tls]\ncert = '/c'\nkey = '/k'", "tls.cert: is for a domain"},
		{"domain = 'localhost:443'\n[tls]\nacme = true", "tls.acme: is for a domain"},
		{"domain = 'x.example'\n[tls]\ncert = '/c'", "tls.key: is missing"},
		{"domain = 'x.example'\n[tls]\nkey = '/k'", "tls.cert: is missing"},
		{"domain = 'x.example'\n[tls]\ncert = 'c'\nkey = '/k'", "tls.cert: \"c\" is not an absolute path"},
		{"domain = 'x.example'\n[tls]\ncert = '/c'\nkey = '/k'\nacme = true", "exclude each other"},
		{"domain = 'x.example'\n[tls]\nacme_email = 'a@x.example'", "tls.acme: is false"},
		{"domain = 'x.example'\n[tls]\nacme = true\nacme_ca = 'http://ca.example'", "tls.acme_ca: "},
		{"[dns]\naddr = '53'", "dns.addr: "},
		{"[dns]\nanswer = ['192.0.2.1']", "dns.answer: is of no use"},
		{"[dns]\naddr = ':53'\nanswer = ['here']", "dns.answer: \"here\""},
	} {
		dir := t.TempDir()
		writeFile(t, dir, tt.file)
		_, err := Load(Sources{Flags: map[string]string{"data_dir": dir}})
		if tt.want == "" && err != nil || tt.want != "" && (!errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s\nLoad = %v, want %q", tt.file, err, tt.want)
		}
	}
}
