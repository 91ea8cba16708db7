package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// Node requires Node.js and the modules that dir's package-lock.json pins,
// installing them with npm if the installed ones are not those. It returns
// where node is.
func Node(t testing.TB, dir string) string {
	t.Helper()
	node := testreq.Command(t, "node", "nodejs")
	if err := InstallModules(t.Context(), dir); err != nil {
		testreq.Missing(t, err.Error())
	}
	return node
}

// InstallModules installs what dir's package-lock.json pins, unless that is
// what is installed. It needs npm and a registry only in the first case.
func InstallModules(ctx context.Context, dir string) error {
	if installed(dir) {
		return nil
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm packages of %s: npm ci: %w\n%s", dir, err, out)
	}
	return markInstalled(dir)
}

// stamp is a copy of the lock file from which the modules beside it came.
func stamp(dir string) string { return filepath.Join(dir, "node_modules", ".sandlot-lock.json") }

func installed(dir string) bool {
	have, err := os.ReadFile(stamp(dir))
	want, wantErr := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	return err == nil && wantErr == nil && bytes.Equal(have, want)
}

func markInstalled(dir string) error {
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return err
	}
	return os.WriteFile(stamp(dir), lock, 0o600)
}

// nodeResult is one line of reporter.mjs.
type nodeResult struct {
	// Kind is pass, fail, skip or note.
	Kind    string  `json:"kind"`
	File    string  `json:"file"`
	Name    string  `json:"name"`
	MS      float64 `json:"ms"`
	Message string  `json:"message"`
}

// NodeTests runs cmd, a node --test whose reporter is reporter.mjs of
// test/compat/cases, and makes each of its tests a subtest of t while it goes on.
func NodeTests(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stderr = os.Stderr
	lines, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start node: %v", err)
	}
	ran, failed := 0, 0
	scanner := bufio.NewScanner(lines)
	scanner.Buffer(nil, 4<<20)
	for scanner.Scan() {
		var r nodeResult
		if json.Unmarshal(scanner.Bytes(), &r) != nil {
			r = nodeResult{Kind: "note", Message: scanner.Text()}
		}
		if r.Kind == "note" {
			t.Logf("node: %s", r.Message)
			continue
		}
		ran++
		if r.Kind == "fail" {
			failed++
		}
		t.Run(r.File+"/"+r.Name, func(t *testing.T) { r.report(t) })
	}
	err = cmd.Wait()
	if ran == 0 || (err != nil && failed == 0) {
		t.Errorf("node ran %d tests and ended with: %v", ran, err)
	}
}

func (r nodeResult) report(t *testing.T) {
	t.Helper()
	switch r.Kind {
	case "pass":
		t.Logf("%.0f ms", r.MS)
	case "skip":
		t.Skip(r.Message)
	default:
		t.Errorf("after %.0f ms: %s", r.MS, r.Message)
	}
}
