package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// Node requires Node.js and the modules that dir's package-lock.json pins,
// installing them with npm if the installed ones are not those.
func Node(t testing.TB, dir string) string {
	t.Helper()
	node := testreq.Command(t, "node", "nodejs")
	if installed(dir) {
		return node
	}
	npm := testreq.Command(t, "npm", "npm")
	cmd := exec.Command(npm, "ci", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		testreq.Missing(t, "the npm packages of "+dir+" (npm ci: "+err.Error()+")\n"+string(out))
	}
	markInstalled(t, dir)
	return node
}

// stamp is a copy of the lock file from which the modules beside it came.
func stamp(dir string) string { return filepath.Join(dir, "node_modules", ".sandlot-lock.json") }

func installed(dir string) bool {
	have, err := os.ReadFile(stamp(dir))
	want, wantErr := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	return err == nil && wantErr == nil && bytes.Equal(have, want)
}

func markInstalled(t testing.TB, dir string) {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stamp(dir), lock, 0o600); err != nil {
		t.Fatal(err)
	}
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
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil || r.Kind == "note" {
			t.Logf("node: %s%s", r.Message, scannerText(err, scanner))
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

// scannerText is a line that was not the reporter's.
func scannerText(err error, scanner *bufio.Scanner) string {
	if err == nil {
		return ""
	}
	return scanner.Text()
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
