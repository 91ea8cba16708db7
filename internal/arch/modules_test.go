package arch

import "testing"

// homes says where other people's modules may be used. Whoever wants to replace
// one, or to know what it costs, has one place to look; a module without a row
// is new and needs a line in docs/adr as well.
var homes = []struct {
	module string
	in     []string
	why    string
}{
	{"golang.org/x/sys", []string{"internal", "cmd", "test"}, "system calls; client works on any system"},
	{"golang.org/x/sync", []string{"internal", "test"}, "bounded groups of goroutines"},
	{"golang.org/x/net/bpf", []string{"internal/driver/namespace"}, "the instructions of a seccomp filter"},
	{"connectrpc.com/connect", []string{"client", "gen", "internal/agent", "internal/clienttest"}, "the two ends of the data plane; the server in between passes bytes on"},
	{"google.golang.org/protobuf", []string{"client", "gen", "internal/agent", "internal/clienttest"}, "the two ends of the data plane; the server in between passes bytes on"},
	{"github.com/spf13/cobra", []string{"internal/cli"}, "the command line"},
	{"github.com/BurntSushi/toml", []string{"internal/config"}, "the configuration file"},
	{"github.com/elastic/go-seccomp-bpf", []string{"internal/driver/namespace"}, "isolation is the driver's"},
	{"github.com/opencontainers/cgroups", []string{"internal/driver/namespace"}, "isolation is the driver's"},
	{"github.com/erofs/go-erofs", []string{"internal/image"}, "the format of images is image's secret"},
	{"github.com/google/nftables", []string{"internal/netns", "test/harness"}, "the packet filter belongs to netns"},
	{"github.com/vishvananda/netlink", []string{"internal/netns"}, "interfaces belong to netns"},
	{"github.com/vishvananda/netns", []string{"internal/netns"}, "interfaces belong to netns"},
	{"github.com/miekg/dns", []string{"internal/netns", "internal/nameserver"}, "the forwarder of names belongs to netns, their answering to nameserver"},
	{"github.com/caddyserver/certmagic", []string{"internal/certs/acme"}, "who knows the one ACME client can replace it"},
	{"go.uber.org/zap", []string{"internal/certs/acme"}, "certmagic logs through it; everybody else has log/slog"},
	{"modernc.org/sqlite", []string{"internal/store/sqlite"}, "engines know store.Store, not SQL"},
	{"github.com/google/go-cmp", []string{"internal/store/storetest", "internal/driver/drivertest"}, "it is for tests"},
}

func TestModulesStayAtHome(t *testing.T) {
	for _, p := range load(t) {
		for _, i := range p.imports {
			if !external(i) || own(i) {
				continue
			}
			if why := away(p.path, i); why != "" {
				t.Errorf("%s must not import %s: %s", p.path, i, why)
			}
		}
	}
}

// away returns why a package may not import another module's, or "".
func away(importer, imported string) string {
	for _, h := range homes {
		if !within(imported, h.module) {
			continue
		}
		if withinAny(importer, h.in) {
			return ""
		}
		return h.why
	}
	return "no row in internal/arch/modules_test.go allows it; a new module also needs a line in docs/adr"
}
