package sqlite_test

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/store"
	"github.com/sandlot-dev/sandlot/internal/store/sqlite"
	"github.com/sandlot-dev/sandlot/internal/store/storetest"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "registry.db")) })
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with space ?#%41.db")
	s := open(t, path)
	row, key := storetest.FullSandbox(), storetest.FullKey(1)
	if err := s.PutSandbox(t.Context(), row); err != nil {
		t.Fatal(err)
	}
	if err := s.AddKey(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file has another name: %v", err)
	}
	s = open(t, path)
	rows, err := s.Sandboxes(t.Context())
	if d := cmp.Diff([]store.Sandbox{row}, rows); d != "" || err != nil {
		t.Errorf("Sandboxes: %v (-want +got):\n%s", err, d)
	}
	keys, err := s.Keys(t.Context())
	if d := cmp.Diff([]store.Key{key}, keys); d != "" || err != nil {
		t.Errorf("Keys: %v (-want +got):\n%s", err, d)
	}
}

func TestFileMode(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "registry.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, path)
	if err := s.PutSandbox(t.Context(), storetest.FullSandbox()); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 2 {
		t.Fatalf("want the file and its log: %v, %v", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", f.Name(), info.Mode().Perm())
		}
	}
}

func TestNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	open(t, path).Close()
	exec1(t, path, "INSERT INTO schema_versions VALUES (99, '')")
	_, err := sqlite.Open(t.Context(), path)
	if !errs.Is(err, errs.Unsupported) || !strings.Contains(errs.PublicMessage(err), "schema 99") {
		t.Errorf("Open = %v, want kind unsupported naming schema 99", err)
	}
}

func exec1(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := sqlite.Open(t.Context(), path)
	if err == nil || !strings.Contains(errs.PublicMessage(err), "damaged") {
		t.Errorf("Open = %v, want a message that says the file is damaged", err)
	}
}

func TestSecondOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	open(t, path)
	if _, err := sqlite.Open(t.Context(), path); !errs.Is(err, errs.Conflict) {
		t.Errorf("second Open = %v, want kind conflict", err)
	}
}

// TestFullDisk fills a small file system under the registry.
func TestFullDisk(t *testing.T) {
	testreq.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := open(t, filepath.Join(dir, "registry.db"))
	written := 0
	var err error
	for ; err == nil && written < 10_000; written++ {
		err = s.PutSandbox(t.Context(), storetest.FullSandbox())
	}
	if !errs.Is(err, errs.NoSpace) || !strings.Contains(errs.PublicMessage(err), "full") {
		t.Fatalf("after %d rows: %v, want kind no space", written, err)
	}
	rows, err := s.Sandboxes(t.Context())
	if err != nil || len(rows) != written-1 {
		t.Errorf("%d rows, %v, want the %d that were acknowledged", len(rows), err, written-1)
	}
}

// TestKill ends a writing process with SIGKILL: every write that returned is
// there afterwards.
func TestKill(t *testing.T) {
	const env = "SANDLOT_TEST_KILL_PATH"
	if path := os.Getenv(env); path != "" {
		writeUntilKilled(t, path)
	}
	path := filepath.Join(t.TempDir(), "registry.db")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), env+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	written := make(map[string]bool)
	for len(written) < 50 {
		var id string
		if _, err := fmt.Fscanln(out, &id); err != nil {
			t.Fatal(err)
		}
		written[id] = true
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	rows, err := open(t, path).Sandboxes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		delete(written, string(row.ID))
	}
	if len(written) > 0 {
		t.Errorf("%d acknowledged rows are lost", len(written))
	}
}

func writeUntilKilled(t *testing.T, path string) {
	s := open(t, path)
	for {
		row := storetest.FullSandbox()
		if err := s.PutSandbox(t.Context(), row); err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintln(os.Stdout, row.ID)
	}
}

func BenchmarkPutSandbox(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "registry.db"))
	row := storetest.FullSandbox()
	for i := 0; b.Loop(); i++ {
		row.ID = storetest.FullSandbox().ID
		if err := s.PutSandbox(b.Context(), row); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAddKey(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "registry.db"))
	for i := 0; b.Loop(); i++ {
		key := storetest.FullKey(i)
		key.Hash[30], key.Hash[31] = byte(i>>8), byte(i>>16)
		if err := s.AddKey(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
}
