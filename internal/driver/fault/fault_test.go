package fault_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/driver/drivertest"
	"github.com/sandlot-dev/sandlot/internal/driver/fake"
	"github.com/sandlot-dev/sandlot/internal/driver/fault"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

var errFault = errors.New("fault")

func spec(t testing.TB) driver.Spec { return drivertest.Spec(t, "/layer") }

// Without hooks, and with hooks that let everything pass, nothing changes.
func TestTransparent(t *testing.T) {
	pass := func(context.Context, driver.State) error { return nil }
	for name, hooks := range map[string]fault.Hooks{
		"none": {},
		"pass": {
			Probe:   func(context.Context) error { return nil },
			Create:  func(context.Context, driver.Spec) error { return nil },
			Sweep:   func(context.Context, []driver.State) error { return nil },
			Signal:  func(context.Context, driver.State, sandbox.Signal) error { return nil },
			Recover: pass, Created: pass, Start: pass, Started: pass, Wait: pass, Stats: pass, Dial: pass,
			Destroy: pass, Destroyed: pass,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var host fake.Host
			drivertest.Run(t, drivertest.Options{
				New:  func(testing.TB) driver.Driver { return fault.New(host.Driver(), hooks) },
				Spec: spec,
			})
		})
	}
}

// Each hook fails its method, and only that.
func TestHooks(t *testing.T) {
	fail := func(context.Context, driver.State) error { return errFault }
	var host fake.Host
	d := fault.New(host.Driver(), fault.Hooks{
		Probe:   func(context.Context) error { return errFault },
		Sweep:   func(context.Context, []driver.State) error { return errFault },
		Signal:  func(context.Context, driver.State, sandbox.Signal) error { return errFault },
		Recover: fail, Wait: fail, Stats: fail, Dial: fail,
	})
	i, err := d.Create(t.Context(), spec(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Probe":   func() error { _, err := d.Probe(t.Context()); return err },
		"Sweep":   func() error { _, err := d.Sweep(t.Context(), nil); return err },
		"Recover": func() error { _, err := d.Recover(t.Context(), i.State()); return err },
		"Signal":  func() error { return i.Signal(t.Context(), sandbox.SIGKILL) },
		"Wait":    func() error { _, err := i.Wait(t.Context()); return err },
		"Stats":   func() error { _, err := i.Stats(t.Context()); return err },
		"Dial":    func() error { _, err := i.Dial(t.Context()); return err },
	} {
		if err := call(); !errors.Is(err, errFault) {
			t.Errorf("%s: %v, want the fault", name, err)
		}
	}
	if len(host.Living()) != 1 {
		t.Error("a fault reached the driver below")
	}
	if err := i.Destroy(t.Context()); err != nil || len(host.Living()) != 0 {
		t.Errorf("destroy: %v", err)
	}
}

// A fault after the work of Create leaves nothing; one after that of Destroy
// hides that it was done.
func TestFaultsAfterwards(t *testing.T) {
	fail := func(context.Context, driver.State) error { return errFault }
	var host fake.Host
	if _, err := fault.New(host.Driver(), fault.Hooks{Created: fail}).Create(t.Context(), spec(t)); !errors.Is(err, errFault) {
		t.Errorf("create: %v", err)
	}
	if len(host.Living()) != 0 {
		t.Error("a create that failed left its sandbox")
	}
	i, err := fault.New(host.Driver(), fault.Hooks{Started: fail, Destroyed: fail}).Create(t.Context(), spec(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Start(t.Context()); !errors.Is(err, errFault) {
		t.Errorf("start: %v", err)
	}
	if err := i.Destroy(t.Context()); !errors.Is(err, errFault) || len(host.Living()) != 0 {
		t.Errorf("destroy: %v, %d left", err, len(host.Living()))
	}
}

// A hook may dawdle.
func TestDelay(t *testing.T) {
	var host fake.Host
	d := fault.New(host.Driver(), fault.Hooks{Create: func(ctx context.Context, _ driver.Spec) error {
		select {
		case <-time.After(time.Minute):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := d.Create(ctx, spec(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("create: %v", err)
	}
}
