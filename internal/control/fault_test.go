package control_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// TestTeardownRetries lets Destroy, then the delete of the row, fail for a while.
func TestTeardownRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{MaxSandboxes: 1})
		s := r.create(t, 10*time.Second)
		r.host.destroying(func(sandbox.ID) error { return errFault })
		if err := r.Kill(t.Context(), s.ID); !errors.Is(err, errFault) {
			t.Errorf("Kill = %v, want the fault", err)
		}
		_, err := r.Get(s.ID)
		wantKind(t, err, errs.NotFound)
		_, err = r.Create(t.Context(), control.CreateRequest{Template: "base", Timeout: time.Minute})
		wantKind(t, err, errs.Exhausted) // it still holds its place

		time.Sleep(5 * time.Minute)
		synctest.Wait()
		r.host.destroying(nil)
		r.reg.fail(nil, fault)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(r.host.Launched()) != 0 {
			t.Error("not destroyed once that was possible")
		}
		r.reg.fail(nil, nil)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		r.wantNothing(t)
		r.create(t, time.Minute)
	})
}

func TestExited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		s := r.create(t, time.Minute)
		r.host.die(s.ID)
		r.Exited(s.ID)
		_, err := r.Get(s.ID)
		wantKind(t, err, errs.NotFound)
		r.Exited(s.ID)
		synctest.Wait()
		r.wantNothing(t)
		if n := r.host.destroyed[s.ID]; n != 1 {
			t.Errorf("destroyed %d times, want once: what it held must be freed", n)
		}
	})
}

// TestDiesDuringCreate lets a sandbox end before its row is written.
func TestDiesDuringCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		r.reg.fail(func() error {
			for _, id := range r.host.Launched() {
				r.host.die(id)
				r.Exited(id)
			}
			return nil
		}, nil)
		_, err := r.Create(t.Context(), control.CreateRequest{Template: "base", Timeout: time.Minute})
		wantKind(t, err, errs.Unavailable)
		synctest.Wait()
		r.wantNothing(t)
	})
}

// TestCreateFaults fails every step of create; nothing may stay.
func TestCreateFaults(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*rig)
	}{
		{"launch", func(r *rig) { r.host.launching(func(context.Context) error { return errFault }) }},
		{"row", func(r *rig) { r.reg.fail(fault, nil) }},
		{"row, then destroy once", func(r *rig) {
			r.reg.fail(fault, nil)
			r.host.destroying(func(sandbox.ID) error { r.host.destroying(nil); return errFault })
		}},
		{"row, then delete once", func(r *rig) {
			r.reg.fail(fault, func() error { r.reg.fail(fault, nil); return errFault })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, control.Options{MaxSandboxes: 1})
				tc.set(r)
				_, err := r.Create(t.Context(), control.CreateRequest{Template: "base", Timeout: time.Minute})
				if !errors.Is(err, errFault) {
					t.Errorf("Create = %v, want the fault", err)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				r.wantNothing(t)
				r.host.launching(nil)
				r.reg.fail(nil, nil)
				r.create(t, time.Minute) // the place is free again
			})
		})
	}
}

// TestClientGone ends the request at each step of create.
func TestClientGone(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*rig, context.CancelFunc)
	}{
		{"while launching", func(r *rig, cancel context.CancelFunc) {
			r.host.launching(func(ctx context.Context) error { cancel(); return ctx.Err() })
		}},
		{"after launching", func(r *rig, cancel context.CancelFunc) {
			r.host.launching(func(context.Context) error { cancel(); return nil })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := start(t, control.Options{MaxSandboxes: 1})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			tc.set(r, cancel)
			_, err := r.Create(ctx, control.CreateRequest{Template: "base", Timeout: time.Minute})
			wantKind(t, err, errs.Timeout)
			r.wantNothing(t)
			r.host.launching(nil)
			r.create(t, time.Minute)
		})
	}
}

// TestRecover restarts with sandboxes that live, died, expired, and one whose
// row was never written.
func TestRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		alive, dead, expired := r.create(t, 10*time.Minute), r.create(t, 10*time.Minute), r.create(t, time.Minute)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r.host.die(dead.ID)
		orphan, _ := r.host.Launch(t.Context(), control.LaunchRequest{})
		time.Sleep(2 * time.Minute)

		r.boot(t)
		synctest.Wait()
		got, err := r.Get(alive.ID)
		if d := cmp.Diff(alive, got); d != "" || err != nil {
			t.Errorf("the living one: %v (-want +got):\n%s", err, d)
		}
		for _, id := range []sandbox.ID{dead.ID, expired.ID, orphan} {
			_, err := r.Get(id)
			wantKind(t, err, errs.NotFound)
			if r.host.destroyed[id] != 1 {
				t.Errorf("%s destroyed %d times, want once", id, r.host.destroyed[id])
			}
		}
		if rows := r.reg.rows(t); len(rows) != 1 {
			t.Errorf("%d rows, want 1", len(rows))
		}
		if err := r.Authorize(alive.ID, alive.AccessToken); err != nil {
			t.Errorf("the token no longer works: %v", err)
		}
		if n, last := r.Usage(base.ID); n != 3 || !last.Equal(expired.StartedAt) {
			t.Errorf("Usage = %d, %v", n, last)
		}
		time.Sleep(8*time.Minute - time.Millisecond)
		synctest.Wait()
		if _, err := r.Get(alive.ID); err != nil {
			t.Errorf("ended before its time: %v", err)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		r.wantNothing(t)
	})
}

// TestKillDuringSetTimeout kills a sandbox while its new end of life is being
// written: the kill wins, and the row does not come back.
func TestKillDuringSetTimeout(t *testing.T) {
	r := start(t, control.Options{})
	s := r.create(t, time.Minute)
	killed := make(chan error, 1)
	r.reg.fail(func() error {
		go func() { killed <- r.Kill(t.Context(), s.ID) }()
		for {
			if _, err := r.Get(s.ID); err != nil {
				return nil
			}
			time.Sleep(time.Millisecond)
		}
	}, nil)
	wantKind(t, r.SetTimeout(t.Context(), s.ID, time.Hour), errs.NotFound)
	if err := <-killed; err != nil {
		t.Error(err)
	}
	r.wantNothing(t)
}

// TestKillWhenClientGone ends the request before the kill.
func TestKillWhenClientGone(t *testing.T) {
	r := start(t, control.Options{})
	s := r.create(t, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Kill(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	r.wantNothing(t)
}
