// Package demo_test runs the demonstration program as make demo does.
package demo_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/test/harness"
)

func TestDemo(t *testing.T) {
	server := harness.Start(t, harness.Options{})
	node := harness.Node(t, ".")
	cmd := exec.CommandContext(t.Context(), node, "demo.mjs")
	cmd.Env = append(os.Environ(), server.Env()...)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "All steps worked") {
		t.Errorf("the demo failed: %v", err)
	}
}

// Without a server the demo must end at once with one clear line.
func TestDemoWithoutServer(t *testing.T) {
	node := harness.Node(t, ".")
	cmd := exec.CommandContext(t.Context(), node, "demo.mjs")
	const nowhere = "http://127.0.0.1:1"
	cmd.Env = append(os.Environ(), "E2B_API_URL="+nowhere, "E2B_SANDBOX_URL="+nowhere, "E2B_API_KEY=e2b_"+strings.Repeat("0", 40))
	out, err := cmd.CombinedOutput()
	if err == nil || strings.Contains(string(out), "    at ") || !strings.Contains(string(out), "✗") {
		t.Errorf("ended with %v and said:\n%s", err, out)
	}
}
