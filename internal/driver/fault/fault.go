// Package fault wraps a driver so that tests can make it fail or dawdle: each
// method first asks a hook of its own, and what the hook returns as an error is
// returned in the method's place. Without hooks it changes nothing and passes
// the suite in drivertest. Only tests import it.
package fault

import (
	"context"
	"net"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Hooks are called before (and, where the name says so, after) the methods of a
// driver and its instances. A nil hook lets the method pass. A hook may block,
// but must respect its context; it may be called from any goroutine. Hooks may
// not be changed while the driver is in use: let the functions look at state of
// their own instead.
type Hooks struct {
	Probe   func(context.Context) error
	Create  func(context.Context, driver.Spec) error
	Recover func(context.Context, driver.State) error
	Sweep   func(context.Context, []driver.State) error

	// Created is called with an instance that was made. If it fails, so does
	// Create, after having destroyed the instance.
	Created func(context.Context, driver.State) error

	Start   func(context.Context, driver.State) error
	Wait    func(context.Context, driver.State) error
	Signal  func(context.Context, driver.State, sandbox.Signal) error
	Stats   func(context.Context, driver.State) error
	Dial    func(context.Context, driver.State) error
	Destroy func(context.Context, driver.State) error

	// Started and Destroyed are called after the methods succeeded; their error
	// takes the place of that success.
	Started   func(context.Context, driver.State) error
	Destroyed func(context.Context, driver.State) error
}

// Driver is a driver with hooks. It is as safe for concurrent use as they are.
type Driver struct {
	driver.Driver
	hooks Hooks
}

var _ driver.Driver = (*Driver)(nil)

// New wraps d.
func New(d driver.Driver, h Hooks) *Driver { return &Driver{Driver: d, hooks: h} }

// Probe asks the hook, then the driver.
func (d *Driver) Probe(ctx context.Context) (driver.Caps, error) {
	if h := d.hooks.Probe; h != nil {
		if err := h(ctx); err != nil {
			return driver.Caps{}, err
		}
	}
	return d.Driver.Probe(ctx)
}

// Create asks the hook, then the driver, and wraps the instance.
func (d *Driver) Create(ctx context.Context, spec driver.Spec) (driver.Instance, error) {
	if h := d.hooks.Create; h != nil {
		if err := h(ctx, spec); err != nil {
			return nil, err
		}
	}
	i, err := d.Driver.Create(ctx, spec)
	if err != nil {
		return nil, err
	}
	if h := d.hooks.Created; h != nil {
		if err := h(ctx, i.State()); err != nil {
			_ = i.Destroy(context.WithoutCancel(ctx)) // the injected error is the one to see
			return nil, err
		}
	}
	return &instance{Instance: i, hooks: &d.hooks}, nil
}

// Recover asks the hook, then the driver, and wraps the instance.
func (d *Driver) Recover(ctx context.Context, s driver.State) (driver.Instance, error) {
	if err := call(ctx, d.hooks.Recover, s); err != nil {
		return nil, err
	}
	i, err := d.Driver.Recover(ctx, s)
	if err != nil {
		return nil, err
	}
	return &instance{Instance: i, hooks: &d.hooks}, nil
}

// Sweep asks the hook, then the driver.
func (d *Driver) Sweep(ctx context.Context, keep []driver.State) ([]string, error) {
	if h := d.hooks.Sweep; h != nil {
		if err := h(ctx, keep); err != nil {
			return nil, err
		}
	}
	return d.Driver.Sweep(ctx, keep)
}

type instance struct {
	driver.Instance
	hooks *Hooks
}

var (
	_ driver.Instance  = (*instance)(nil)
	_ driver.Unwrapper = (*instance)(nil)
)

// Unwrap returns the instance itself, for driver.As.
func (i *instance) Unwrap() driver.Instance { return i.Instance }

func call(ctx context.Context, hook func(context.Context, driver.State) error, s driver.State) error {
	if hook == nil {
		return nil
	}
	return hook(ctx, s)
}

func (i *instance) Start(ctx context.Context) error {
	if err := call(ctx, i.hooks.Start, i.State()); err != nil {
		return err
	}
	if err := i.Instance.Start(ctx); err != nil {
		return err
	}
	return call(ctx, i.hooks.Started, i.State())
}

func (i *instance) Wait(ctx context.Context) (driver.Exit, error) {
	if err := call(ctx, i.hooks.Wait, i.State()); err != nil {
		return driver.Exit{}, err
	}
	return i.Instance.Wait(ctx)
}

func (i *instance) Signal(ctx context.Context, sig sandbox.Signal) error {
	if h := i.hooks.Signal; h != nil {
		if err := h(ctx, i.State(), sig); err != nil {
			return err
		}
	}
	return i.Instance.Signal(ctx, sig)
}

func (i *instance) Stats(ctx context.Context) (driver.Stats, error) {
	if err := call(ctx, i.hooks.Stats, i.State()); err != nil {
		return driver.Stats{}, err
	}
	return i.Instance.Stats(ctx)
}

func (i *instance) Dial(ctx context.Context) (net.Conn, error) {
	if err := call(ctx, i.hooks.Dial, i.State()); err != nil {
		return nil, err
	}
	return i.Instance.Dial(ctx)
}

func (i *instance) Destroy(ctx context.Context) error {
	if err := call(ctx, i.hooks.Destroy, i.State()); err != nil {
		return err
	}
	if err := i.Instance.Destroy(ctx); err != nil {
		return err
	}
	return call(ctx, i.hooks.Destroyed, i.State())
}
