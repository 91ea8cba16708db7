package arch

import (
	"strings"
	"testing"
)

// layer is a row of packages that do not know each other. Imports point from a
// later row to an earlier one, or within one of the listed subtrees.
type layer struct {
	name     string
	packages []string
	// why is what the reader of a violation should know.
	why string
}

// layers, lowest first. A package belongs to the longest listed path that
// contains it; packages that are in no row have a rule of their own below.
var layers = []layer{
	{"vocabulary: errors", []string{"internal/errs"}, "everything imports it, so it imports nothing"},
	{"vocabulary", []string{"internal/sandbox", "internal/config", "gen"}, "words every layer shares"},
	{"files", []string{"internal/atomicfile"}, "mechanisms that keep files write them in one way"},
	{"mechanisms", []string{
		"internal/agentbin", "internal/agentclient", "internal/certs", "internal/debian", "internal/driver", "internal/image",
		"internal/listener", "internal/nameserver", "internal/netns", "internal/rootfs", "internal/slot", "internal/store", "internal/trust",
	}, "each does one thing to the host and is tested by itself; an engine puts them together"},
	{"engine of one host", []string{"internal/node", "internal/template"}, "node runs sandboxes, template makes what they run from; neither knows who asks"},
	{"engine of all verbs", []string{"internal/control"}, "control says what it needs of a host (control.Host) instead of importing one"},
	{"surfaces", []string{"internal/api", "internal/edge"}, "they translate requests to verbs of control and know nothing of each other"},
	{"composition", []string{"internal/daemon"}, "the one place that knows every part"},
	{"commands", []string{"cmd/sandlot"}, "main only connects the command line to the daemon"},
}

// exceptions are imports the rows forbid and that are right all the same.
var exceptions = map[string]string{
	"internal/driver/namespace → internal/agent/boot":   "boot owns the protocol between the driver and the first process of a sandbox; both ends compile against it",
	"internal/driver/drivertest → internal/agentclient": "the suite talks to the agent inside as the product does",
	"internal/driver/fake → internal/agentclient":       "the fake answers the agent's protocol, whose words are the client's",
}

// side is a tree beside the layers, with the whole list of what it may import
// of this module.
type side struct {
	path string
	may  []string
	why  string
}

var sides = []side{
	{"client", []string{"gen", "client"}, "it is the public Go SDK: whoever imports it must not get the server with it"},
	{"internal/agent", []string{"internal/agent", "internal/errs", "gen"}, "the agent runs once per sandbox: each package costs memory and start-up time in every one"},
	{"cmd/sandlot-agent", []string{"internal/agent"}, "its main only starts the agent"},
	{"cmd/sandlot-boot", []string{"internal/agent/boot"}, "it runs before every agent: each package costs start-up time in every sandbox"},
	{"internal/bench", []string{"client", "internal/errs"}, "it measures what a user of the SDK gets, so it goes the user's way"},
	{"internal/cli", []string{"client", "internal/bench", "internal/config", "internal/driver", "internal/errs"}, "commands reach the server only through client; what runs inside the server is handed to it by main (internal/driver: the words of doctor's report)"},
	{"internal/clienttest", []string{"gen"}, "it is a fake server for tests of client, so it must not share the server's mistakes"},
	{"internal/testreq", nil, "every test may import it"},
	{"internal/arch", nil, "it has only tests"},
	{"test", []string{"test", "client", "internal/testreq", "internal/slot", "internal/netns", "internal/template", "internal/debian", "internal/errs"}, "end-to-end tests use the product from outside"},
}

// guarded packages may be imported only by the listed ones.
var guarded = []struct {
	path string
	by   []string
	why  string
}{
	{"internal/testreq", []string{"test"}, "only tests have needs they may skip for"},
	{"test", []string{"test"}, "products do not import their tests"},
	{"internal/clienttest", nil, "it is a fake for tests"},
	{"internal/arch", nil, "it has only tests"},
	{"internal/store/memory", nil, "a server that forgets its sandboxes leaks them: it is a fake for tests"},
	{"internal/store/storetest", nil, "it is a conformance suite for tests"},
	{"internal/driver/drivertest", nil, "it is a conformance suite for tests"},
	{"internal/driver/fake", []string{"internal/driver"}, "it is a fake for tests"},
	{"internal/driver/fault", []string{"internal/driver"}, "it injects faults in tests"},
	{"internal/store/sqlite", []string{"internal/daemon"}, "engines know store.Store; which store it is, the daemon says"},
	{"internal/driver/namespace", []string{"internal/daemon"}, "engines know driver.Driver; which driver it is, the daemon says"},
	{"internal/agentbin", []string{"internal/daemon"}, "it is the agent's megabytes; the daemon hands the path to whoever needs it"},
	{"internal/daemon", []string{"cmd/sandlot"}, "nothing stands above the composition root but main"},
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range load(t) {
		for _, i := range p.imports {
			if !own(i) {
				continue
			}
			if why := forbidden(p.path, i); why != "" && exceptions[p.path+" → "+i] == "" {
				t.Errorf("%s must not import %s: %s", p.path, i, why)
			}
		}
	}
}

func TestEveryPackageHasAPlace(t *testing.T) {
	for _, p := range load(t) {
		if row(p.path) < 0 && sideOf(p.path) == nil {
			t.Errorf("%s is in no layer: give it a row in internal/arch/layers_test.go", p.path)
		}
	}
}

// TestForbidden shows that the rules bite.
func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		importer, imported string
		ok                 bool
	}{
		{"internal/node", "internal/rootfs", true},
		{"internal/driver/namespace", "internal/driver", true},
		{"internal/agent/files", "internal/agent/wire", true},
		{"internal/daemon", "internal/store/sqlite", true},
		{"client", "gen/envd/process", true},
		{"internal/rootfs", "internal/slot", false},
		{"internal/rootfs", "internal/node", false},
		{"internal/node", "internal/control", false},
		{"internal/node", "internal/template", false},
		{"internal/errs", "internal/sandbox", false},
		{"internal/api", "internal/edge", false},
		{"internal/api", "internal/store/sqlite", false},
		{"internal/agent", "internal/sandbox", false},
		{"client", "internal/errs", false},
		{"internal/cli", "internal/control", false},
		{"internal/node", "internal/testreq", false},
		{"internal/daemon", "internal/store/memory", false},
		{"internal/nowhere", "internal/errs", false},
	} {
		if why := forbidden(c.importer, c.imported); (why == "") != c.ok {
			t.Errorf("forbidden(%s, %s) = %q", c.importer, c.imported, why)
		}
	}
}

// forbidden returns why importer may not import imported, or "".
func forbidden(importer, imported string) string {
	for _, g := range guarded {
		if within(imported, g.path) && !within(importer, g.path) && !withinAny(importer, g.by) {
			return g.why
		}
	}
	if s := sideOf(importer); s != nil {
		if withinAny(imported, s.may) {
			return ""
		}
		return s.why
	}
	if within(importer, "cmd/sandlot") && (imported == "internal/cli") {
		return ""
	}
	from, to := row(importer), row(imported)
	switch {
	case from < 0 || to < 0:
		return "one of them has no place in the layers"
	case to < from || home(from, importer) == home(to, imported):
		return ""
	case to == from:
		return "both are in the layer \"" + layers[from].name + "\", where packages do not know each other: " + layers[from].why
	}
	return "imports point down, and it is above: " + layers[to].why
}

func sideOf(path string) *side {
	for i := range sides {
		if within(path, sides[i].path) {
			return &sides[i]
		}
	}
	return nil
}

// row returns the index of a package's layer, -1 if it has none.
func row(path string) int {
	for i, l := range layers {
		if withinAny(path, l.packages) {
			return i
		}
	}
	return -1
}

// home returns the listed subtree a package of layer i is in.
func home(i int, path string) string {
	for _, p := range layers[i].packages {
		if within(path, p) {
			return p
		}
	}
	return ""
}

// TestChain bounds how many packages of ours one has to know to follow a call
// from main to the kernel.
func TestChain(t *testing.T) {
	const most = 8
	imports := map[string][]string{}
	for _, p := range load(t) {
		imports[p.path] = p.imports
	}
	for path := range imports {
		if c := chain(imports, path); len(c) > most {
			t.Errorf("a chain of %d imports, at most %d: %s", len(c), most, strings.Join(c, " → "))
		}
	}
}

// chain returns the longest way down from path; the go command has made sure
// that there are no circles.
func chain(imports map[string][]string, path string) []string {
	var longest []string
	for _, i := range imports[path] {
		if !own(i) {
			continue
		}
		if c := chain(imports, i); len(c) > len(longest) {
			longest = c
		}
	}
	return append([]string{path}, longest...)
}
