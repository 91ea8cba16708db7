package node

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandlot-dev/sandlot/internal/driver"
)

// settle lets a pool be filled; within a bubble it takes no time.
func settle() {
	time.Sleep(poolWindow / 3)
	synctest.Wait()
}

func TestPoolIsFilledAndUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(8)
		defer func() { f.close(t, n) }()
		n.Warm(request().Template)
		settle()
		waiting := f.host.Living()
		if n.Ready(request().Template) != poolMin || len(waiting) != poolMin {
			t.Fatalf("%d wait, want %d", len(waiting), poolMin)
		}
		if len(n.Launched()) != 0 {
			t.Error("a sandbox that waits counts as launched")
		}
		id := launch(t, n)
		known := false
		for _, w := range waiting {
			known = known || w == id
		}
		if !known || !n.Alive(id) {
			t.Error("the launch did not take one that waited")
		}
		if inits := f.host.Inits(id); len(inits) != 1 || inits[0].DefaultUser != "user" {
			t.Errorf("its agent was told %v", inits)
		}
	})
}

// The pool grows with what is asked of it, up to its ceiling, and shrinks when
// nothing is.
func TestPoolFollowsDemand(t *testing.T) {
	const ceiling = 8
	for _, launches := range []int{1, 24, 200} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakes(t)
			n := f.node(ceiling)
			defer func() { f.close(t, n) }()
			for range launches {
				check(t, "destroy", n.Destroy(t.Context(), launch(t, n)))
			}
			settle()
			want := min(ceiling, max(poolMin, int(math.Ceil(float64(launches)*demandShare))))
			if got := n.Ready(request().Template); got != want {
				t.Errorf("%d wait after %d launches, want %d", got, launches, want)
			}
			if got := len(f.host.Living()); got > ceiling {
				t.Errorf("%d live, the ceiling is %d", got, ceiling)
			}
			time.Sleep(poolLinger + 2*poolWindow)
			synctest.Wait()
			if got := n.Ready(request().Template); got != poolMin {
				t.Errorf("%d still wait after nothing was asked for long, want %d", got, poolMin)
			}
		})
	}
}

// A launch that finds the pool empty does not wait for its filling.
func TestEmptyPoolIsPassedBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		var calls atomic.Int32
		stuck := make(chan struct{})
		f.hooks.Create = func(context.Context, driver.Spec) error {
			if calls.Add(1) <= 2 { // the filling's first two
				<-stuck
			}
			return nil
		}
		n := f.node(8)
		defer func() { f.close(t, n) }()
		n.Warm(request().Template)
		synctest.Wait()
		start := time.Now()
		launch(t, n)
		if took := time.Since(start); took > 0 {
			t.Errorf("the launch waited %s", took)
		}
		close(stuck)
	})
}

// WithoutPool passes by a pool that is full.
func TestWithoutPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(4)
		defer func() { f.close(t, n) }()
		n.Warm(request().Template)
		settle()
		waiting := f.host.Living()
		id, err := n.Launch(WithoutPool(t.Context()), request())
		check(t, "launch", err)
		if slices.Contains(waiting, id) {
			t.Error("it came from the pool")
		}
	})
}

// Sandboxes that died while they waited are passed over and replaced.
func TestDeadPooledSandboxes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(8)
		defer func() { f.close(t, n) }()
		n.Warm(request().Template)
		settle()
		dead := f.host.Living()
		for _, id := range dead {
			f.host.Die(id)
		}
		synctest.Wait()
		id := launch(t, n)
		if !n.Alive(id) {
			t.Error("the launch gave a dead sandbox")
		}
		settle()
		if got := n.Ready(request().Template); got != poolMin {
			t.Errorf("%d wait again, want %d", got, poolMin)
		}
		for _, id := range dead {
			if n.Alive(id) {
				t.Errorf("%s is dead and counts as alive", id)
			}
		}
		select {
		case id := <-f.exits:
			t.Errorf("the end of %s, which nobody had, was reported", id)
		default:
		}
	})
}

// A pool that cannot be filled is tried again at leisure.
func TestFillingBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		var calls atomic.Int32
		var broken atomic.Bool
		broken.Store(true)
		f.hooks.Create = func(context.Context, driver.Spec) error {
			calls.Add(1)
			if broken.Load() {
				return errInjected
			}
			return nil
		}
		n := f.node(8)
		defer func() { f.close(t, n) }()
		n.Warm(request().Template)
		time.Sleep(5 * time.Minute)
		if got := calls.Load(); got < 4 || got > 60 {
			t.Errorf("%d launches were tried in 5 minutes", got)
		}
		f.wantKept(t)
		broken.Store(false)
		time.Sleep(2 * retryLimit)
		synctest.Wait()
		if got := n.Ready(request().Template); got != poolMin {
			t.Errorf("%d wait once they can, want %d", got, poolMin)
		}
	})
}

// A claim that fails leaves nothing of the sandbox.
func TestClaimFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		f.hooks.Dial = func(context.Context, driver.State) error { return errInjected }
		n := f.node(0)
		defer func() { f.close(t, n) }()
		if _, err := n.Launch(t.Context(), request()); !errors.Is(err, errInjected) {
			t.Errorf("launch: %v", err)
		}
		f.wantKept(t)
	})
}

// Templates whose sandboxes differ do not share a pool.
func TestPoolsOfTemplates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(8)
		defer func() { f.close(t, n) }()
		a, b := request(), request()
		b.Template.ID, b.Template.Image = "other", "other"
		n.Warm(a.Template)
		settle()
		waiting := f.host.Living()
		id, err := n.Launch(t.Context(), b)
		check(t, "launch", err)
		if slices.Contains(waiting, id) {
			t.Error("it came from another template's pool")
		}
	})
}

// Close removes what waits and keeps what was launched.
func TestCloseKeepsTheLaunched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakes(t)
		n := f.node(8)
		defer func() { f.close(t, n) }()
		a, b := launch(t, n), launch(t, n)
		synctest.Wait()
		check(t, "close", n.Close(t.Context()))
		f.wantKept(t, a, b)
		if id, err := n.Launch(t.Context(), request()); err == nil {
			t.Errorf("a closed node launched %s", id)
		}
		f.wantKept(t, a, b)
	})
}
