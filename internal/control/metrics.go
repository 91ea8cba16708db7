package control

import (
	"context"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// samplePeriod is how often every running sandbox is read.
const samplePeriod = 5 * time.Second

// MaxMetricsOf bounds the sandboxes MetricsOf is asked for at once.
const MaxMetricsOf = 100

// Metric is what a sandbox used at one moment and what it may use, in bytes.
type Metric struct {
	At   time.Time
	CPUs int
	// CPUPercent is how much of all its processors it used since the reading
	// before, 0 to 100.
	CPUPercent float64
	// MemoryUsed is without MemoryCache, what caches files.
	MemoryUsed, MemoryCache, MemoryTotal int64
	// DiskUsed is 0 where the host does not count it.
	DiskUsed, DiskTotal int64
}

// sample reads every running sandbox each period, until ctx ends.
func (c *Control) sample(ctx context.Context) {
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, e := range c.running() {
			if ctx.Err() != nil {
				return
			}
			if err := c.read(ctx, e); err != nil { // it may just have ended
				c.opt.Logger.Debug("sandbox not sampled", "sandbox_id", e.id, "error", err)
			}
		}
	}
}

func (c *Control) running() []*entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		if e.sandbox.State == sandbox.Running {
			found = append(found, e)
		}
	}
	return found
}

// read adds a reading to a sandbox's history.
func (c *Control) read(ctx context.Context, e *entry) error {
	s, err := c.host.Stats(ctx, e.id)
	if err != nil {
		return err
	}
	e.history.add(newReading(c.opt.Now(), s))
	return nil
}

// warm makes sure that there is a metric of a running sandbox: one that is too
// young to have been sampled is read at once, twice.
func (c *Control) warm(ctx context.Context, e *entry) error {
	for {
		n, latest := e.history.size()
		if n >= 2 {
			return nil
		}
		if n == 1 {
			if err := pause(ctx, minInterval-c.opt.Now().Sub(latest)); err != nil {
				return err
			}
		}
		if err := c.read(ctx, e); err != nil {
			return err
		}
	}
}

// pause waits, at most minInterval.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(min(d, minInterval))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// measured returns a listed sandbox whose history, if it runs, has a metric.
func (c *Control) measured(ctx context.Context, id sandbox.ID) (*entry, Sandbox, error) {
	s, err := c.Get(id)
	if err != nil {
		return nil, s, err
	}
	e, ok := c.entry(id)
	if !ok {
		return nil, s, notFound(id)
	}
	if s.State != sandbox.Running {
		return e, s, nil
	}
	return e, s, c.orEnded(id, c.warm(ctx, e))
}

// orEnded returns that a sandbox is not found if that is why err came about.
func (c *Control) orEnded(id sandbox.ID, err error) error {
	if err != nil && (errs.Is(err, errs.NotFound) || !c.isListed(id)) {
		return notFound(id)
	}
	return err
}

// Metrics returns what a sandbox used from one time on and before another, the
// oldest first; the longer ago, the farther apart. A restart of the server
// forgets what was before. For a sandbox that has just started it blocks for a
// tenth of a second.
func (c *Control) Metrics(ctx context.Context, id sandbox.ID, from, until time.Time) ([]Metric, error) {
	e, s, err := c.measured(ctx, id)
	if err != nil {
		return nil, err
	}
	return e.history.between(from, until, s.Limits), nil
}

// MetricsOf returns the latest metric of each sandbox that runs; the others are
// left out. It takes at most MaxMetricsOf.
func (c *Control) MetricsOf(ctx context.Context, ids []sandbox.ID) (map[sandbox.ID]Metric, error) {
	if len(ids) > MaxMetricsOf {
		return nil, errs.New(errs.Invalid, "%d sandboxes are named; at most %d are allowed in one request", len(ids), MaxMetricsOf)
	}
	var (
		mu    sync.Mutex
		found = make(map[sandbox.ID]Metric, len(ids))
		work  sync.WaitGroup
	)
	for _, id := range ids { // side by side, for the young ones wait
		work.Go(func() {
			e, s, err := c.measured(ctx, id)
			if err != nil {
				return // it is not there or just ended
			}
			if m, ok := e.history.last(s.Limits); ok {
				mu.Lock()
				defer mu.Unlock()
				found[id] = m
			}
		})
	}
	work.Wait()
	return found, ctx.Err()
}

// CurrentMetric returns what a running sandbox uses now: memory and disk at
// this moment, processors since the last time it was sampled.
func (c *Control) CurrentMetric(ctx context.Context, id sandbox.ID) (Metric, error) {
	e, s, err := c.measured(ctx, id)
	if err != nil {
		return Metric{}, err
	}
	stats, err := c.host.Stats(ctx, id)
	if err != nil {
		return Metric{}, c.orEnded(id, err)
	}
	now := newReading(c.opt.Now(), stats)
	before, ok := e.history.upTo(time.UnixMilli(now.at).Add(-minInterval))
	if !ok {
		return Metric{}, errs.New(errs.Unavailable, "sandbox %s is not measured yet; try again in a moment", id)
	}
	return now.metric(before, s.Limits), nil
}
