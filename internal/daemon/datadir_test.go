package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func touch(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTakeDir(t *testing.T) {
	for name, c := range map[string]struct {
		files []string
		ok    bool
	}{
		"empty":                  {nil, true},
		"configured before":      {[]string{config.FileName}, true},
		"ours":                   {[]string{marker, "registry.db", "lock"}, true},
		"ours, not quite":        {[]string{atomicfile.Prefix + "1"}, true},
		"somebody's home":        {[]string{".bashrc"}, false},
		"another program's lock": {[]string{"lock"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range c.files {
				touch(t, dir, f)
			}
			err := takeDir(dir)
			if c.ok != (err == nil) || (err != nil && !errs.Is(err, errs.Invalid)) {
				t.Fatalf("takeDir: %v", err)
			}
			if _, statErr := os.Stat(filepath.Join(dir, marker)); c.ok != (statErr == nil) {
				t.Errorf("marker: %v", statErr)
			}
		})
	}
}

func TestRemoveDataLeavesWhatIsNotOurs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(filepath.Join(dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{marker, "lock", "registry.db", "images/a", "thesis.txt"} {
		touch(t, dir, f)
	}
	if err := removeData(dir); !errs.Is(err, errs.Conflict) {
		t.Fatalf("removeData: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "thesis.txt" {
		t.Fatalf("left: %v (%v)", left, err)
	}
	if err := os.Remove(filepath.Join(dir, "thesis.txt")); err != nil {
		t.Fatal(err)
	}
	touch(t, dir, atomicfile.Prefix+"1")
	if err := removeData(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}
