package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/slot"
)

func TestSinceNamesOnlyWhatTheOwnerAdded(t *testing.T) {
	before := Host{Thing{"mount /var/lib/x/pool from /dev/loop3 (btrfs, rw)", -1}: {}}
	after := Host{
		Thing{"mount /var/lib/x/pool from /dev/loop3 (btrfs, rw)", -1}: {},
		Thing{"mount /var/lib/x/root from sandlot (overlay, rw)", -1}:  {},
		Thing{"mount /var/lib/other from sandlot (overlay, rw)", -1}:   {},
		Thing{"interface sl3", 3}:                                      {},
		Thing{"interface sl300", 300}:                                  {},
		Thing{`process 7 "sleep 1" in /sandlot-abc/box`, -1}:           {},
	}
	owner := Owner{Names: []string{"/var/lib/x", "sandlot-abc"}, Blocks: []int{1}}
	got := strings.Join(after.Since(before, owner), "\n")
	want := "interface sl300\nmount /var/lib/x/root from sandlot (overlay, rw)\nprocess 7 \"sleep 1\" in /sandlot-abc/box"
	if got != want {
		t.Errorf("Since =\n%s\nwant\n%s", got, want)
	}
}

func TestSandlotGroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/user.slice\n": "",
		"5:memory:/sandlot-1/x\n4:cpu:/sandlot-1/x\n0::/\n": "/sandlot-1/x",
		"0::/sandlot-2/y\n": "/sandlot-2/y",
	} {
		if got := sandlotGroup(text); got != want {
			t.Errorf("sandlotGroup(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestSnapshotSeesThisMachine(t *testing.T) {
	if len(Snapshot(t)) == 0 {
		t.Error("not even the root mount was seen")
	}
	if got := mountsUnder("/proc"); len(got) == 0 {
		t.Error("/proc is not seen as a mount")
	}
	if got := processSlot("/proc/self"); got != -1 {
		t.Errorf("this process has slot %d", got)
	}
	if _, ok := slot.FromInterface("sl7"); !ok {
		t.Error("the names of interfaces have changed")
	}
}

func TestLogBufferKeepsTheEnd(t *testing.T) {
	var b logBuffer
	for range 300 {
		if _, err := b.Write(make([]byte, 1024)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if tail := b.tail(); len(tail) != logKept || !strings.HasSuffix(tail, "last words") {
		t.Errorf("tail has %d bytes", len(tail))
	}
}

func TestInstalledFollowsTheLock(t *testing.T) {
	dir := t.TempDir()
	lock := filepath.Join(dir, "package-lock.json")
	if err := os.MkdirAll(filepath.Join(dir, "node_modules"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lock, []byte(`{"version":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if installed(dir) {
		t.Error("nothing is installed yet")
	}
	if err := markInstalled(dir); err != nil || !installed(dir) {
		t.Errorf("installed modules were not recognised: %v", err)
	}
	if err := InstallModules(t.Context(), dir); err != nil {
		t.Errorf("installed modules were installed again: %v", err)
	}
	if err := os.WriteFile(lock, []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if installed(dir) {
		t.Error("modules of another lock file were accepted")
	}
}

// The whole life of a server, and proof that the check at the end would see
// what a server leaves: it sees all kinds of things while the server runs.
func TestServer(t *testing.T) {
	before := Snapshot(t)
	s := Start(t, Options{})
	if got := strings.TrimSpace(s.CLI("run", "--", "echo", "hello")); got != "hello" {
		t.Errorf("sandlot run said %q", got)
	}
	made := strings.Join(Snapshot(t).Since(before, s.Owner()), "\n")
	for _, kind := range []string{"cgroup ", "interface ", "loop ", "process ", "claim ", "table "} {
		if !strings.Contains("\n"+made, "\n"+kind) {
			t.Errorf("no %s is seen to be the server's:\n%s", kind, made)
		}
	}
	pid := s.PID()
	s.Kill9()
	if s.Running() || s.Healthy() {
		t.Error("the server survived kill -9")
	}
	s.Restart()
	if !s.Healthy() || s.PID() == pid {
		t.Error("the server did not come back")
	}
	if _, err := s.TryCLI("no-such-command"); err == nil {
		t.Error("a failing command gave no error")
	}
}
