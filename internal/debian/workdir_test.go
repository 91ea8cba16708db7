package debian

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

func TestSweepLeavesLivingBuilds(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "tmp")
	living, err := NewWorkDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(parent, workPrefix+"dead", "mmdebstrap.x", "etc")
	other := filepath.Join(parent, "upload")
	for _, dir := range []string{dead, other} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(parent); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{filepath.Base(living.Path), "upload"}, names(t, parent)); d != "" {
		t.Errorf("after sweeping (-want +got):\n%s", d)
	}
	if err := living.Close(); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"upload"}, names(t, parent)); d != "" {
		t.Errorf("after closing (-want +got):\n%s", d)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// What a killed build mounted is unmounted before anything is deleted: it can
// be a directory of the host.
func TestSweepUnmounts(t *testing.T) {
	testreq.Root(t)
	parent, host := t.TempDir(), t.TempDir()
	precious := filepath.Join(host, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, workPrefix+"dead", "a b")
	if err := os.MkdirAll(filepath.Join(dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := unix.Mount(host, filepath.Join(dir, "dev"), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(parent); err != nil {
		t.Error(err)
	}
	if left := names(t, parent); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("the host lost a file: %v", err)
	}
}

func TestSweepOfNothing(t *testing.T) {
	if err := Sweep(filepath.Join(t.TempDir(), "missing")); err != nil {
		t.Error(err)
	}
}
