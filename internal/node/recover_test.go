package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/slot"
	"github.com/sandlot-dev/sandlot/internal/store"
)

// restart crashes a node and returns its successor.
func (f *fakes) restart(t *testing.T, n *Node, poolMax int) *Node {
	t.Helper()
	crash(n)
	for s := range slot.Slot(8192) {
		f.slots.Release(s) // the successor's process knows of none
	}
	next := f.node(poolMax)
	check(t, "recover", next.Recover(t.Context()))
	return next
}

// The launched are taken over; what waited, what died and what cannot be read
// is cleared away.
func TestRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(4)
		defer func() { f.close(t, n) }()
		a, b, dead := launch(t, n), launch(t, n), launch(t, n)
		synctest.Wait()
		crash(n)
		f.host.Die(dead)
		garbage := sandbox.NewID()
		check(t, "put", f.store.PutBox(t.Context(), store.Box{ID: garbage, Data: []byte("garbage")}))
		_, err := f.uppers.Create(sandbox.NewID(), 1<<20) // of a launch that was never recorded
		check(t, "make upper", err)
		links, err := Links(t.Context(), f.store)
		if err != nil || len(links) != 3 {
			t.Errorf("links %v: %v", links, err)
		}
		n = f.restart(t, n, 0)
		f.wantKept(t, a, b)
		launched := n.Launched()
		slices.Sort(launched)
		want := []sandbox.ID{a, b}
		slices.Sort(want)
		if !slices.Equal(launched, want) || n.Alive(dead) {
			t.Errorf("launched %v, want %v", launched, want)
		}
		for _, id := range want {
			conn, err := n.DialAgent(t.Context(), id)
			if err != nil {
				t.Fatalf("dial: %v", err)
			}
			conn.Close()
		}
		// Their slots are not given to others.
		c := launch(t, n)
		f.wantKept(t, a, b, c)
		// And they are watched.
		f.host.Die(a)
		synctest.Wait()
		if got := <-f.exits; got != a {
			t.Errorf("the end of %s was reported, want %s", got, a)
		}
	})
}

// Again and again, nothing is lost and nothing piles up.
func TestRecoverRepeatedly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(4)
		defer func() { f.close(t, n) }()
		var ids []sandbox.ID
		for range 5 {
			ids = append(ids, launch(t, n))
			synctest.Wait()
			n = f.restart(t, n, 4)
			for _, id := range ids {
				if !n.Alive(id) {
					t.Errorf("%s was lost", id)
				}
			}
		}
	})
}

// A sweep that fails does not keep the server from those who live.
func TestRecoverWithoutSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(0)
		defer func() { f.close(t, n) }()
		id := launch(t, n)
		f.hooks.Sweep = func(context.Context, []driver.State) error { return errInjected }
		n = f.restart(t, n, 0)
		if !n.Alive(id) {
			t.Error("the living one was lost")
		}
	})
}

func TestOnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(0)
		defer func() { f.close(t, n) }()
		a, b := launch(t, n), launch(t, n)
		f.host.Die(a)
		synctest.Wait()
		if got := <-f.exits; got != a {
			t.Errorf("the end of %s was reported, want %s", got, a)
		}
		if n.Alive(a) {
			t.Error("it counts as alive after its end was reported")
		}
		_, err := n.DialAgent(t.Context(), a)
		if !errs.Is(err, errs.NotFound) && !errors.Is(err, driver.ErrGone) {
			t.Errorf("dial: %v", err)
		}
		check(t, "destroy", n.Destroy(t.Context(), a))
		check(t, "destroy", n.Destroy(t.Context(), b)) // not an end by itself
		synctest.Wait()
		if len(f.exits) > 0 {
			t.Errorf("the end of %s was reported", <-f.exits)
		}
	})
}

// Calls at the same time wait for each other, and the work is done once.
func TestDestroyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		var calls atomic.Int32
		f.hooks.Destroyed = func(context.Context, driver.State) error { calls.Add(1); return nil }
		n := f.node(0)
		defer func() { f.close(t, n) }()
		id := launch(t, n)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() { check(t, "destroy", n.Destroy(t.Context(), id)) })
		}
		wg.Wait()
		if got := calls.Load(); got != 1 {
			t.Errorf("destroyed %d times", got)
		}
		check(t, "destroy an unknown one", n.Destroy(t.Context(), sandbox.NewID()))
	})
}

// A destroy that fails keeps what the sandbox holds, and can be done again.
func TestDestroyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		var calls atomic.Int32
		f.hooks.Destroy = func(context.Context, driver.State) error {
			if calls.Add(1) == 1 {
				return errInjected
			}
			return nil
		}
		n := f.node(0)
		defer func() { f.close(t, n) }()
		id := launch(t, n)
		if err := n.Destroy(t.Context(), id); !errors.Is(err, errInjected) {
			t.Errorf("destroy: %v", err)
		}
		if n.Alive(id) {
			t.Error("it counts as alive")
		}
		f.wantKept(t, id)
		check(t, "destroy again", n.Destroy(t.Context(), id))
		f.wantKept(t)
	})
}
