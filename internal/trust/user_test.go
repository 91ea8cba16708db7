package trust_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/testreq"
	"github.com/sandlot-dev/sandlot/internal/trust"
)

// nobody is some user without rights.
const nobody = 65534

// newHome makes a machine of a user other than root, with real programs.
func newHome(t *testing.T) (m *machine, home string) {
	t.Helper()
	testreq.Root(t)
	testreq.Command(t, "certutil", "libnss3-tools")
	m = newMachine(t, []string{"/usr/local/share/ca-certificates", "/home/ann"}, nil)
	for dir := m.Root; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.User = trust.User{Name: "ann", Home: "/home/ann", UID: nobody, GID: nobody}
	m.LookPath = func(name string) (string, error) {
		if name == "update-ca-certificates" {
			return "/bin/true", nil
		}
		return exec.LookPath(name)
	}
	m.Run = nil
	home = filepath.Join(m.Root, m.User.Home)
	if err := os.Chown(home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return m, home
}

// What is made in somebody's home is his.
func TestDatabaseIsTheUsers(t *testing.T) {
	m, home := newHome(t)
	if r, err := m.Install(t.Context(), newRoot(t)); err != nil || len(r.Done) != 2 {
		t.Fatalf("Install = %+v, %v", r, err)
	}
	files := 0
	err := filepath.WalkDir(home, func(path string, _ fs.DirEntry, err error) error {
		var stat syscall.Stat_t
		if err == nil {
			err = syscall.Lstat(path, &stat)
		}
		if stat.Uid != nobody || stat.Gid != nobody {
			t.Errorf("%s is of %d:%d", path, stat.Uid, stat.Gid)
		}
		files++
		return err
	})
	if err != nil || files < 6 {
		t.Errorf("%d files, %v", files, err)
	}
}

// Links in somebody's home lead root nowhere: neither a new database nor a
// change of one that root could write.
func TestLinksInHome(t *testing.T) {
	for _, there := range []bool{false, true} {
		m, home := newHome(t)
		secret := filepath.Join(m.Root, "root")
		db := filepath.Join(secret, "nssdb")
		if err := os.MkdirAll(db, 0o755); err != nil {
			t.Fatal(err)
		}
		if there {
			if out, err := exec.CommandContext(t.Context(), "certutil", "-d", "sql:"+db, "-N", "--empty-password").CombinedOutput(); err != nil {
				t.Fatalf("certutil: %v: %s", err, out)
			}
		}
		if err := os.Symlink(secret, filepath.Join(home, ".pki")); err != nil {
			t.Fatal(err)
		}
		before := contents(t, secret)
		if r, err := m.Install(t.Context(), newRoot(t)); err == nil || len(r.Done) != 1 {
			t.Errorf("there %t: Install = %+v, %v", there, r, err)
		}
		if after := contents(t, secret); after != before {
			t.Errorf("there %t: %q became %q", there, before, after)
		}
	}
}

// contents returns names and contents of all files below dir.
func contents(t testing.TB, dir string) (all string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		all += path + "\n"
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all += string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
