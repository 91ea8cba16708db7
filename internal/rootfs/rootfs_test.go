package rootfs

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

func openPool(t testing.TB, dir, backend string) *Pool {
	t.Helper()
	p, err := Open(t.Context(), Options{Dir: dir, Backend: backend, SizeBytes: 2 << 30, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// suite is what every backend must do.
func suite(t *testing.T, p *Pool) {
	id := sandbox.NewID()
	u, err := p.Create(id, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Create(id, 64<<20); err == nil {
		t.Error("the same upper was made twice")
	}
	for _, dir := range []string{u.Up, u.Work} {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600); err != nil {
			t.Error(err)
		}
	}
	ids, err := p.List()
	if err != nil || len(ids) != 1 || ids[0] != id {
		t.Errorf("List: %v, %v", ids, err)
	}
	for range 2 { // idempotent
		if err := p.Delete(id); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(u.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there", u.Dir)
	}
	if err := p.Delete("../escape"); err == nil {
		t.Error("Delete took a path for an id")
	}
}

func TestDirectories(t *testing.T) {
	p := openPool(t, t.TempDir(), "directory")
	suite(t, p)
	if p.Enforced() {
		t.Error("plain directories claim to enforce limits")
	}
}

func TestLoop(t *testing.T) {
	testreq.Root(t)
	testreq.Command(t, "mkfs.btrfs", "btrfs-progs")
	dir := t.TempDir()
	p := openPool(t, dir, "loop")
	suite(t, p)
	if p.Enforced() {
		checkLimit(t, p)
	}
}

func checkLimit(t *testing.T, p *Pool) {
	id := sandbox.NewID()
	u, err := p.Create(id, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(u.Up, "big"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(bytes.Repeat([]byte("0123456789abcdef"), 1<<20))
	if err = errors.Join(err, f.Sync(), f.Close()); !errors.Is(err, unix.EDQUOT) {
		t.Errorf("16 MiB into an upper of 8 MiB: %v, want EDQUOT", err)
	}
	if n := p.Usage(id); n < 1<<20 || n > 9<<20 {
		t.Errorf("usage is %d bytes", n)
	}
	if err := p.Delete(id); err != nil {
		t.Error(err)
	}
}

// Usage follows what is written at once, also what is not on the disk yet, and
// what is deleted once that is.
func TestUsage(t *testing.T) {
	testreq.Root(t)
	testreq.Command(t, "mkfs.btrfs", "btrfs-progs")
	p := openPool(t, t.TempDir(), "loop")
	a, b := sandbox.NewID(), sandbox.NewID()
	if n := p.Usage(a); n != -1 {
		t.Errorf("an upper that does not exist uses %d bytes", n)
	}
	if !p.Enforced() {
		return // this kernel counts nothing
	}
	up, err := p.Create(a, 64<<20)
	if _, err2 := p.Create(b, 64<<20); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	const size = 16 << 20
	path := filepath.Join(up.Up, "file")
	if err := os.WriteFile(path, bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o600); err != nil {
		t.Fatal(err)
	}
	between(t, "written", p.Usage(a), size, size+1<<20)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	between(t, "synced", p.Usage(a), size, size+1<<20)
	between(t, "of another", p.Usage(b), 0, 1<<20)
	dir, err := os.Open(up.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := errors.Join(f.Close(), os.Remove(path), unix.Syncfs(int(dir.Fd()))); err != nil {
		t.Fatal(err)
	}
	between(t, "deleted", p.Usage(a), 0, 1<<20)
}

func between(t *testing.T, what string, n, low, high int64) {
	t.Helper()
	if n < low || n > high {
		t.Errorf("%s: usage is %d, want %d to %d", what, n, low, high)
	}
}

// A second server must find the first one's device while sandboxes use it, and
// nothing must stay when nobody does.
func TestLoopDeviceIsShared(t *testing.T) {
	testreq.Root(t)
	testreq.Command(t, "mkfs.btrfs", "btrfs-progs")
	dir := t.TempDir()
	p := openPool(t, dir, "loop")
	file := filepath.Join(dir, "pool.btrfs")
	first, ok := findLoop(file)
	if !ok {
		t.Fatal("the pool's device is not found")
	}
	again, err := p.attachLoop(file)
	if err != nil || again != first.Name() {
		t.Errorf("attached %s, want %s (%v)", again, first.Name(), err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 { // autoclear follows the last close
		dev, ok := findLoop(file)
		if !ok {
			return
		}
		_ = dev.Close() // or it would never be detached
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s is still attached", first.Name())
}
