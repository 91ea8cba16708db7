package control

import (
	"context"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Recover loads the registry, drops the sandboxes that died meanwhile, destroys
// those alive that nobody was promised, and begins to serve: the living keep
// their end of life, and those past it are killed at once. Call it once, after
// the host has found its sandboxes again. It blocks for the store and the host.
func (c *Control) Recover(ctx context.Context) error {
	rows, err := c.store.Sandboxes(ctx)
	if err != nil {
		return fmt.Errorf("load sandboxes: %w", err)
	}
	if err := c.keys.load(ctx, c.store); err != nil {
		return fmt.Errorf("load keys: %w", err)
	}
	if err := c.loadUsages(ctx); err != nil {
		return fmt.Errorf("load usages: %w", err)
	}
	launched := c.host.Launched()
	if err := c.begin(context.WithoutCancel(ctx), rows); err != nil {
		return err
	}
	lost, orphans := c.removeLost(ctx, rows), c.removeOrphans(ctx, rows, launched)
	c.opt.Logger.Info("registry recovered", "alive", len(rows)-lost, "lost", lost, "orphans", orphans)
	return nil
}

// begin fills the registry and starts the goroutines that own its deadlines.
// From here on an exit the host reports is not missed.
func (c *Control) begin(ctx context.Context, rows []Sandbox) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != starting {
		return errs.New(errs.Internal, "the registry was recovered or closed before")
	}
	for _, row := range rows {
		c.insert(row)
	}
	ctx, c.stop = context.WithCancel(ctx)
	c.phase = serving
	c.work.Go(func() { c.reap(ctx) })
	c.work.Go(func() { c.flushEvery(ctx, time.Minute) })
	c.work.Go(func() { c.sample(ctx) })
	return nil
}

// removeLost ends the rows whose sandbox is not alive and counts them.
func (c *Control) removeLost(ctx context.Context, rows []Sandbox) (n int) {
	for _, row := range rows {
		if listed(row.State) && c.host.Alive(row.ID) {
			continue
		}
		n++
		if e, ok := c.retire(row.ID, "lost while the server was down"); ok {
			_, err := c.finish(ctx, e)
			c.logFailure("remove lost sandbox", e.id, err)
		}
	}
	return n
}

// removeOrphans ends the sandboxes that were launched but have no row, and
// counts them: a crash fell between the two.
func (c *Control) removeOrphans(ctx context.Context, rows []Sandbox, launched []sandbox.ID) (n int) {
	known := make(map[sandbox.ID]bool, len(rows))
	for _, row := range rows {
		known[row.ID] = true
	}
	for _, id := range launched {
		if known[id] {
			continue
		}
		n++
		c.mu.Lock()
		e := c.insert(Sandbox{ID: id, State: sandbox.Stopping})
		e.reason = "launched but never promised"
		c.mu.Unlock()
		_, err := c.finish(ctx, e)
		c.logFailure("remove orphaned sandbox", id, err)
	}
	return n
}
