package control

import (
	"context"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// maxRefresh bounds what one Refresh may ask for, as E2B does.
const maxRefresh = time.Hour

func notFound(id sandbox.ID) error {
	return errs.New(errs.NotFound, "sandbox %q not found: it never existed, was killed or reached its end of life", id)
}

// listed reports whether clients may see a sandbox in state s.
func listed(s sandbox.State) bool { return s == sandbox.Running || s == sandbox.Paused }

// Get returns a sandbox that runs or is paused, else errs.NotFound. It reads
// memory only.
func (c *Control) Get(id sandbox.ID) (Sandbox, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.entries[id]
	if !ok || !listed(e.sandbox.State) {
		return Sandbox{}, notFound(id)
	}
	return e.sandbox, nil
}

// Kill ends a sandbox. When it returns, everything the sandbox held is free.
// The sandbox is out of reach at once, and the kill goes on if ctx ends. An
// error means that it could not be freed yet; it is tried again, by the server
// and by another Kill.
func (c *Control) Kill(ctx context.Context, id sandbox.ID) error {
	leave, err := c.enter()
	if err != nil {
		return err
	}
	defer leave()
	e, ok := c.retire(id, "killed")
	if !ok {
		return notFound(id)
	}
	did, err := c.finish(ctx, e)
	if err == nil && !did { // another kill was faster
		return notFound(id)
	}
	return err
}

// Exited tells that a sandbox's first process has ended. The host calls it; it
// does not block. The sandbox is out of reach when it returns.
func (c *Control) Exited(id sandbox.ID) {
	leave, err := c.enter()
	if err != nil {
		return // at the next start, Recover sees that it is not alive
	}
	defer leave()
	if c.isListed(id) {
		if e, ok := c.retire(id, "exited"); ok {
			c.teardown(context.Background(), e)
		}
	}
}

func (c *Control) isListed(id sandbox.ID) bool {
	_, err := c.Get(id)
	return err == nil
}

// SetTimeout sets the end of life to d from now, earlier or later.
func (c *Control) SetTimeout(ctx context.Context, id sandbox.ID, d time.Duration) error {
	_, err := c.live(ctx, id, d, func(_, end time.Time) time.Time { return end })
	return err
}

// Refresh makes sure the sandbox lives at least d (at most an hour) from now.
func (c *Control) Refresh(ctx context.Context, id sandbox.ID, d time.Duration) error {
	if d > maxRefresh {
		return errs.New(errs.Invalid, "duration may be at most %d seconds: use the timeout endpoint for more", int(maxRefresh.Seconds()))
	}
	_, err := c.live(ctx, id, d, later)
	return err
}

// Connect makes sure the sandbox lives at least d from now and returns it.
func (c *Control) Connect(ctx context.Context, id sandbox.ID, d time.Duration) (Sandbox, error) {
	return c.live(ctx, id, d, later)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// live moves a sandbox's end of life to what choose makes of the present end
// and d from now. The new end is durable when it takes effect.
func (c *Control) live(ctx context.Context, id sandbox.ID, d time.Duration, choose func(have, want time.Time) time.Time) (Sandbox, error) {
	leave, err := c.enter()
	if err != nil {
		return Sandbox{}, err
	}
	defer leave()
	if err := c.checkTimeout(d); err != nil {
		return Sandbox{}, err
	}
	e, ok := c.entry(id)
	if !ok {
		return Sandbox{}, notFound(id)
	}
	e.change.Lock()
	defer e.change.Unlock()
	s, err := c.Get(id)
	if err != nil {
		return Sandbox{}, err
	}
	end := choose(s.EndAt, c.now().Add(d))
	if end.Equal(s.EndAt) {
		return s, nil
	}
	s.EndAt = end
	if err := c.write(ctx, s); err != nil {
		return Sandbox{}, err
	}
	return s, c.replace(e, s)
}

func (c *Control) entry(id sandbox.ID) (*entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.entries[id]
	return e, ok
}

// replace puts what was written into memory, unless the sandbox ended meanwhile.
func (c *Control) replace(e *entry, s Sandbox) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !listed(e.sandbox.State) {
		return notFound(e.id)
	}
	e.sandbox = s
	c.schedule(e, s.EndAt)
	return nil
}

func (c *Control) checkTimeout(d time.Duration) error {
	if d < time.Second {
		return errs.New(errs.Invalid, "the timeout must be at least 1 second, not %d: to end a sandbox now, kill it", int64(d/time.Second))
	}
	if d > c.opt.MaxTimeout {
		return errs.New(errs.Invalid, "the timeout may be at most %d seconds: ask for less, or raise max_timeout in the server's configuration", int64(c.opt.MaxTimeout/time.Second))
	}
	return nil
}

// Templates returns all templates.
func (c *Control) Templates(ctx context.Context) ([]sandbox.Template, error) {
	return c.templates.List(ctx)
}

// SetTemplateLimits changes the limits of the sandboxes made from a template
// from now on; zero fields stay as they are. errs.NotFound, errs.Invalid.
func (c *Control) SetTemplateLimits(ctx context.Context, ref string, l sandbox.Limits) (sandbox.Template, error) {
	return c.templates.SetLimits(ctx, ref, l)
}

// Template returns the template ref names, else errs.NotFound.
func (c *Control) Template(ctx context.Context, ref string) (sandbox.Template, error) {
	return c.templates.Resolve(ctx, ref)
}
