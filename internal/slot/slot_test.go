package slot

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

func open(t *testing.T, dir, owner string) *Pool {
	t.Helper()
	p, err := Open(dir, owner, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func acquire(t *testing.T, p *Pool) Slot {
	t.Helper()
	s, err := p.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTwoServersNeverShareASlot(t *testing.T) {
	dir, a, b := t.TempDir(), t.TempDir(), t.TempDir()
	pa, pb := open(t, dir, a), open(t, dir, b)
	seen := map[Slot]bool{}
	for range 600 { // more than two blocks each
		for _, p := range []*Pool{pa, pb} {
			s := acquire(t, p)
			if seen[s] {
				t.Fatalf("slot %d handed out twice", s)
			}
			seen[s] = true
		}
	}
}

func TestClaimsOutliveTheServer(t *testing.T) {
	dir, owner := t.TempDir(), t.TempDir()
	s := acquire(t, open(t, dir, owner))
	again := open(t, dir, owner)
	again.Reserve(s)
	if got := acquire(t, again); got == s {
		t.Fatalf("reserved slot %d handed out", s)
	}
	if other := acquire(t, open(t, dir, t.TempDir())); other/blockSize == s/blockSize {
		t.Fatalf("slot %d lies in a block of another server", other)
	}
}

func TestBlockOfADeletedDataDirectoryIsTaken(t *testing.T) {
	dir := t.TempDir()
	gone := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	first := acquire(t, open(t, dir, gone))
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if got := acquire(t, open(t, dir, t.TempDir())); got != first {
		t.Fatalf("got slot %d, want the abandoned %d", got, first)
	}
}

func TestReleasedSlotsRestBeforeTheyAreUsedAgain(t *testing.T) {
	p := open(t, t.TempDir(), t.TempDir())
	s := acquire(t, p)
	p.Release(s)
	if got := acquire(t, p); got == s {
		t.Fatalf("slot %d was used again at once", s)
	}
}

func TestBusySlotsAreSkipped(t *testing.T) {
	p := open(t, t.TempDir(), t.TempDir())
	p.busy = func(s Slot) bool { return s%2 == 0 }
	for range 10 {
		if s := acquire(t, p); s%2 == 0 {
			t.Fatalf("busy slot %d handed out", s)
		}
	}
}

func TestExhaustion(t *testing.T) {
	p := open(t, t.TempDir(), t.TempDir())
	for range blocks * blockSize {
		acquire(t, p)
	}
	if _, err := p.Acquire(); !errs.Is(err, errs.Exhausted) {
		t.Fatalf("got %v, want exhausted", err)
	}
	if err := p.Forget(); err != nil {
		t.Fatal(err)
	}
}

func TestNumbers(t *testing.T) {
	last := Slot(blocks*blockSize - 1)
	if end := last.UIDBase() + uidRange - 1; end != 0x7fffffff {
		t.Errorf("the last id is %#x", end)
	}
	if got := Slot(513).Address().String(); got != "10.200.2.1" {
		t.Errorf("address %s", got)
	}
	for name, want := range map[string]Slot{"sl0": 0, "sl8191": last} {
		if got, ok := FromInterface(name); !ok || got != want {
			t.Errorf("FromInterface(%q) = %d, %v", name, got, ok)
		}
	}
	for _, name := range []string{"sl", "sl8192", "sl-1", "sl01", "eth0", "slx"} {
		if s, ok := FromInterface(name); ok {
			t.Errorf("FromInterface(%q) = %d", name, s)
		}
	}
}

func TestSlotsAreUsedAgainRatherThanAllOnce(t *testing.T) {
	p := open(t, t.TempDir(), t.TempDir())
	seen := map[Slot]bool{}
	for range 1000 {
		s := acquire(t, p)
		seen[s] = true
		p.Release(s)
	}
	if len(seen) != rest+1 {
		t.Fatalf("%d different slots were used, want %d", len(seen), rest+1)
	}
}
