package node

import (
	"context"
	"log/slog"
	"slices"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/driver/fake"
	"github.com/sandlot-dev/sandlot/internal/driver/fault"
	"github.com/sandlot-dev/sandlot/internal/rootfs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/slot"
	"github.com/sandlot-dev/sandlot/internal/store"
	"github.com/sandlot-dev/sandlot/internal/store/memory"
)

// fakes is a host without isolation, on which nodes come and go.
type fakes struct {
	host   fake.Host
	hooks  fault.Hooks
	uppers *rootfs.Pool
	slots  *slot.Pool
	store  store.Store
	exits  chan sandbox.ID
}

func newFakes(t *testing.T) *fakes {
	t.Helper()
	f := &fakes{store: memory.New(), exits: make(chan sandbox.ID, 64)}
	var err error
	f.uppers, err = rootfs.Open(t.Context(), rootfs.Options{Dir: t.TempDir(), Backend: "directory", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if f.slots, err = slot.Open(t.TempDir(), t.TempDir(), nil); err != nil {
		t.Fatal(err)
	}
	return f
}

// node starts a node on the host, with a pool of at most poolMax.
func (f *fakes) node(poolMax int) *Node {
	return New(Options{
		Driver: fault.New(f.host.Driver(), f.hooks), Images: imageDir("/image"), Uppers: f.uppers, Slots: f.slots,
		Boxes: f.store, PoolMax: poolMax, OnExit: func(id sandbox.ID) { f.exits <- id },
		Logger: slog.New(slog.DiscardHandler),
	})
}

// crash ends a node's goroutines and nothing else, as the death of its process
// would.
func crash(n *Node) {
	n.stop(context.Canceled)
	n.work.Wait()
}

// close ends a node and all its sandboxes.
func (f *fakes) close(t *testing.T, n *Node) {
	t.Helper()
	check(t, "destroy", n.destroyAll(t.Context(), n.Launched()))
	check(t, "close", n.Close(t.Context()))
	f.wantKept(t)
}

// wantKept proves that exactly these sandboxes hold anything.
func (f *fakes) wantKept(t *testing.T, ids ...sandbox.ID) {
	t.Helper()
	slices.Sort(ids)
	living := f.host.Living()
	slices.Sort(living)
	uppers, err := f.uppers.List()
	check(t, "list uppers", err)
	slices.Sort(uppers)
	rows, err := f.store.Boxes(t.Context())
	check(t, "list rows", err)
	recorded := make([]sandbox.ID, 0, len(rows))
	for _, r := range rows {
		recorded = append(recorded, r.ID)
	}
	slices.Sort(recorded)
	used := 0
	for s := range slot.Slot(8192) {
		if f.slots.InUse(s) {
			used++
		}
	}
	for what, got := range map[string][]sandbox.ID{"the driver": living, "uppers": uppers, "the store": recorded} {
		if !slices.Equal(got, ids) {
			t.Errorf("%s has %v, want %v", what, got, ids)
		}
	}
	if used != len(ids) {
		t.Errorf("%d slots are in use, want %d", used, len(ids))
	}
}

func launch(t *testing.T, n *Node) sandbox.ID {
	t.Helper()
	id, err := n.Launch(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	return id
}
