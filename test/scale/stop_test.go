package scale_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/testreq"
	"github.com/sandlot-dev/sandlot/test/harness"
)

// Ctrl-C leaves sandboxes running; --stop-all ends them and keeps the rest.
func TestStopAndStopAll(t *testing.T) {
	testreq.Root(t)
	before := harness.Snapshot(t)
	s := harness.Start(t, harness.Options{})
	l := &ledger{alive: map[string]promise{}, dead: map[string]bool{}}
	for range 3 {
		if err := l.create(t.Context(), dial(t, s)); err != nil {
			t.Fatal(err)
		}
	}
	short, err := dial(t, s).Create(t.Context(), client.WithTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if !strings.Contains(s.Log(), "4 sandboxes go on running") {
		t.Errorf("the farewell does not say what goes on:\n%s", s.Log())
	}
	time.Sleep(1200 * time.Millisecond) // one expires while nobody looks
	s.Restart()
	l.check(t, dial(t, s), 0)
	if _, err := dial(t, s).Info(t.Context(), short.ID); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("a sandbox outlived its end: %v", err)
	}
	s.Stop()
	s.CLI("serve", "--stop-all", "--data-dir", s.DataDir)
	harness.AssertSame(t, before, s.Owner())
	s.Restart()
	for id := range l.alive {
		if _, err := dial(t, s).Info(t.Context(), id); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("--stop-all left %s: %v", id, err)
		}
	}
	if err := l.create(t.Context(), dial(t, s)); err != nil {
		t.Errorf("after --stop-all nothing starts: %v", err)
	}
}

// Purge removes every trace, also of a server that was killed with sandboxes.
func TestPurge(t *testing.T) {
	testreq.Root(t)
	before := harness.Snapshot(t)
	s := harness.Start(t, harness.Options{})
	l := &ledger{alive: map[string]promise{}, dead: map[string]bool{}}
	for range 3 {
		if err := l.create(t.Context(), dial(t, s)); err != nil {
			t.Fatal(err)
		}
	}
	s.Kill9()
	s.Purge()
	harness.AssertSame(t, before, s.Owner())
	if _, err := os.Stat(s.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data directory is still there: %v", err)
	}
	if out, err := s.TryCLI("purge", "--data-dir", s.DataDir); err != nil {
		t.Errorf("a second purge: %v %s", err, out)
	}
}

// Whoever starts a second server by mistake reads one clear line, and the first
// goes on.
func TestSecondServer(t *testing.T) {
	testreq.Root(t)
	s := harness.Start(t, harness.Options{})
	addr := strings.TrimPrefix(s.URL, "http://")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"same data directory": {[]string{"--data-dir", s.DataDir, "--addr", "127.0.0.1:0"}, "in use by another server"},
		"same address":        {[]string{"--data-dir", t.TempDir(), "--addr", addr}, "is in use"},
		"purge":               {nil, "in use by another server"},
		"stop-all":            {[]string{"--stop-all", "--data-dir", s.DataDir}, "in use by another server"},
		"no directory of ours": {
			nil, "no data directory of Sandlot's",
		},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"serve"}, c.args...)
			switch name {
			case "purge":
				args = []string{"purge", "--data-dir", s.DataDir}
			case "no directory of ours":
				dir := t.TempDir()
				if err := os.WriteFile(dir+"/precious", nil, 0o600); err != nil {
					t.Fatal(err)
				}
				args = []string{"purge", "--data-dir", dir}
			}
			out, err := exec.CommandContext(t.Context(), harness.Binary(t, ""), args...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() < 1 {
				t.Fatalf("ended with %v and said %q", err, out)
			}
			said := strings.Split(strings.TrimSpace(string(out)), "\n")
			if !strings.Contains(said[0], c.want) || len(said) > 2 {
				t.Errorf("said:\n%s", out)
			}
		})
	}
	if !s.Healthy() {
		t.Error("the first server is gone")
	}
	if got, err := says(t.Context(), mustCreate(t, dial(t, s)), "echo fine"); err != nil || got != "fine" {
		t.Errorf("the first server says %q: %v", got, err)
	}
}

func mustCreate(t *testing.T, c *client.Client) *client.Sandbox {
	t.Helper()
	sbx, err := c.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sbx
}
