package namespace

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/driver/drivertest"
)

// A thread that cannot be brought back to the server's user id or mount namespace
// after a launch must launch nothing more: its launch fails, and another thread
// serves the next one as if nothing had been.
func TestSpoiledThread(t *testing.T) {
	p := newPlace(t)
	root := drivertest.RootLayer(t)
	for name, spoil := range map[string]func(c *threadCalls, fail func() error){
		"user id": func(c *threadCalls, fail func() error) {
			c.seteuid = func(uid int) error {
				if uid == 0 {
					if err := fail(); err != nil {
						return err
					}
				}
				return setThreadEUID(uid)
			}
		},
		"mount namespace": func(c *threadCalls, fail func() error) {
			c.setns = func(fd, kind int) error {
				if err := fail(); err != nil {
					return err
				}
				return unix.Setns(fd, kind)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := p.lone(t)
			errTest := errors.New("it fails in this test")
			var failures atomic.Int32
			failures.Store(3)
			spoil(&d.thread, func() error {
				if failures.Add(-1) >= 0 {
					return errTest
				}
				return nil
			})
			for range 3 {
				if _, err := d.Create(t.Context(), drivertest.Spec(t, root)); !errors.Is(err, errTest) {
					t.Fatalf("a launch on a thread that did not come back: %v", err)
				}
			}
			i, err := d.Create(t.Context(), drivertest.Spec(t, root))
			if err != nil {
				t.Fatalf("the launch after it: %v", err)
			}
			if err := errors.Join(i.Start(t.Context()), i.Destroy(t.Context())); err != nil {
				t.Error(err)
			}
			if left := p.left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// lone returns a driver with one launching thread.
func (p place) lone(t *testing.T) *Driver {
	t.Helper()
	opts := p.options()
	opts.Launchers = 1
	d, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		d.cgroups.removeParent()
	})
	return d
}

// Jobs that come while no thread can be prepared get the reason, each one.
func TestRefuse(t *testing.T) {
	d := &Driver{jobs: make(chan launchJob), closed: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for d.refuse(errors.New("no thread")) {
		}
	}()
	for range 3 {
		if _, err := d.submit(t.Context(), launchJob{}); err == nil || !strings.Contains(err.Error(), "no thread") {
			t.Errorf("got %v", err)
		}
	}
	close(d.closed)
	<-done
}
