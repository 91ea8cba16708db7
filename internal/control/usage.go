package control

import (
	"context"
	"errors"
	"time"

	"github.com/sandlot-dev/sandlot/internal/store"
)

// usage counts a template's use; dirty says that the store does not know yet.
type usage struct {
	store.Usage
	dirty bool
}

// countUse notes that a sandbox was made from a template.
func (c *Control) countUse(template string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u, ok := c.usages[template]
	if !ok {
		u = &usage{}
		u.TemplateID = template
		c.usages[template] = u
	}
	u.Spawns++
	u.LastSpawn, u.dirty = at, true
}

// Usage returns how many sandboxes were made from a template and when the last
// one was; zero if none was.
func (c *Control) Usage(template string) (spawns int64, last time.Time) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if u, ok := c.usages[template]; ok {
		return u.Spawns, u.LastSpawn
	}
	return 0, time.Time{}
}

func (c *Control) loadUsages(ctx context.Context) error {
	all, err := c.store.Usages(ctx)
	for _, u := range all {
		c.usages[u.TemplateID] = &usage{Usage: u}
	}
	return err
}

// flushEvery writes counters nobody waits for, until ctx ends.
func (c *Control) flushEvery(ctx context.Context, period time.Duration) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := c.flush(ctx); err != nil && ctx.Err() == nil {
			c.opt.Logger.Error("counters not written; it will be tried again", "error", err)
		}
	}
}

func (c *Control) flush(ctx context.Context) error {
	err := c.keys.flush(ctx, c.store)
	for _, u := range c.dirtyUsages() {
		if e := c.store.PutUsage(ctx, u); e != nil {
			err = errors.Join(err, e)
			c.markDirty(u.TemplateID)
		}
	}
	return err
}

func (c *Control) dirtyUsages() (dirty []store.Usage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.usages {
		if u.dirty {
			dirty = append(dirty, u.Usage)
			u.dirty = false
		}
	}
	return dirty
}

func (c *Control) markDirty(template string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.usages[template].dirty = true
}
