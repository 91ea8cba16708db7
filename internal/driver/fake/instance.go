package fake

import (
	"context"
	"errors"
	"net"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// instance is one driver's view of a box.
type instance struct {
	host *Host
	box  *box
}

var (
	_ driver.Instance = (*instance)(nil)
	_ driver.Pauser   = (*instance)(nil)
)

func (i *instance) Start(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return i.box.start()
}

func (i *instance) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-i.box.dead:
		return i.box.exit, nil
	case <-ctx.Done():
		return driver.Exit{}, context.Cause(ctx)
	}
}

func (i *instance) Signal(_ context.Context, sig sandbox.Signal) error {
	if i.box.ended() {
		return driver.ErrGone
	}
	if sig == sandbox.SIGKILL {
		i.box.die()
	}
	return nil
}

func (i *instance) Stats(context.Context) (driver.Stats, error) {
	if i.box.ended() {
		return driver.Stats{}, driver.ErrGone
	}
	return driver.Stats{MemoryBytes: 1 << 20}, nil
}

func (i *instance) Dial(ctx context.Context) (net.Conn, error) {
	i.box.mu.Lock()
	started := i.box.started
	i.box.mu.Unlock()
	switch {
	case i.box.ended():
		return nil, driver.ErrGone
	case !started:
		return nil, errors.New("nothing listens yet")
	}
	here, there := net.Pipe()
	select {
	case i.box.conns <- there:
		return here, nil
	case <-i.box.dead:
		return nil, driver.ErrGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (i *instance) State() driver.State { return i.box.state }

func (i *instance) Destroy(context.Context) error {
	i.host.remove(i.box)
	return nil
}

// Freeze lets the agent answer nothing more.
func (i *instance) Freeze(context.Context) error {
	i.box.mu.Lock()
	defer i.box.mu.Unlock()
	if i.box.frozen == nil {
		i.box.frozen = make(chan struct{})
	}
	return nil
}

// Thaw lets it go on, with what was asked meanwhile.
func (i *instance) Thaw(context.Context) error {
	i.box.mu.Lock()
	defer i.box.mu.Unlock()
	if i.box.frozen != nil {
		close(i.box.frozen)
		i.box.frozen = nil
	}
	return nil
}
