package agent_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden lists everything outside the standard library that the agent links.
const golden = "testdata/dependencies.txt"

// forbidden is what of the standard library must not come in, and why.
var forbidden = map[string]string{
	"os/exec":        "its Wait takes children from the reaper, which as process 1 owns them all; start processes with internal/agent/reaper",
	"os/user":        "it needs cgo or a second parser; use internal/agent/account",
	"html/template":  "reflection over templates keeps the linker from dropping unused methods, which doubles the binary",
	"text/template":  "reflection over templates keeps the linker from dropping unused methods, which doubles the binary",
	"net/http/pprof": "it serves the agent's memory to whoever reaches the socket",
	"testing":        "test code does not belong in the agent",
}

// TestDependencies keeps the agent small on purpose rather than by luck: it runs
// once in every sandbox, so each package is paid for in start-up time and memory
// per sandbox.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if .Standard}}std {{end}}{{.ImportPath}}", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		path, standard := strings.CutPrefix(strings.TrimSpace(line), "std ")
		if reason, bad := forbidden[path]; bad {
			t.Errorf("the agent links %s: %s", path, reason)
		}
		if !standard {
			got = append(got, path)
		}
	}
	slices.Sort(got)
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Fields(string(want)), got); d != "" {
		t.Errorf("what the agent links has changed, and every sandbox pays for it. Do without, or write it down in %s and say why in the commit (-want +got):\n%s", golden, d)
	}
}
