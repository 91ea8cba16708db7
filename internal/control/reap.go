package control

import (
	"container/heap"
	"context"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

const (
	// maxTeardowns bounds teardowns of expired and exited sandboxes that run at
	// once. They already are out of reach, so a queue harms nobody.
	maxTeardowns = 16
	// teardownTimeout bounds one teardown; then it is tried again.
	teardownTimeout = 30 * time.Second
	// writeTimeout bounds one write to the store.
	writeTimeout = 10 * time.Second
	// maxRetryDelay bounds the wait between two tries of a teardown.
	maxRetryDelay = time.Minute
	// maxWait bounds how long the reaper sleeps: ends of life are wall-clock times,
	// and a clock that jumps (suspend, NTP) does not move a timer.
	maxWait = 10 * time.Second
)

// deadlines is a heap of entries by due (container/heap).
type deadlines []*entry

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push implements heap.Interface.
func (d *deadlines) Push(x any) {
	e := x.(*entry)
	e.index = len(*d)
	*d = append(*d, e)
}

// Pop implements heap.Interface.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	e := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	e.index = -1
	return e
}

// schedule sets e's deadline; c.mu is held.
func (c *Control) schedule(e *entry, due time.Time) {
	e.due = due
	if e.index >= 0 {
		heap.Fix(&c.due, e.index)
	} else {
		heap.Push(&c.due, e)
	}
	if e.index == 0 {
		c.poke()
	}
}

// unschedule takes e's deadline away; c.mu is held.
func (c *Control) unschedule(e *entry) {
	if e.index >= 0 {
		heap.Remove(&c.due, e.index)
	}
}

// poke makes the reaper look again.
func (c *Control) poke() {
	select {
	case c.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// reap owns the deadlines: it ends sandboxes at their end of life and tries
// failed teardowns again, until ctx ends.
func (c *Control) reap(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		expired, wait := c.popDue()
		for _, e := range expired {
			c.teardown(ctx, e)
		}
		timer.Reset(wait)
	}
}

// popDue retires every entry that is due and returns them and how long it is
// until the next one.
func (c *Control) popDue() (expired []*entry, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.opt.Now()
	for len(c.due) > 0 && !c.due[0].due.After(now) {
		e := c.due[0]
		c.retireLocked(e, "end of life")
		expired = append(expired, e)
	}
	if len(c.due) == 0 {
		return expired, maxWait
	}
	return expired, min(maxWait, c.due[0].due.Sub(now))
}

// retire puts a sandbox out of reach; finish must follow. It returns also an
// entry whose teardown is under way or failed.
func (c *Control) retire(id sandbox.ID, reason string) (*entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[id]
	if ok {
		c.retireLocked(e, reason)
	}
	return e, ok
}

func (c *Control) retireLocked(e *entry, reason string) {
	c.unschedule(e)
	if e.sandbox.State.CanBecome(sandbox.Stopping) {
		e.sandbox.State, e.reason = sandbox.Stopping, reason
	}
}

// teardown finishes e in its own goroutine, which Close waits for. The caller
// runs inside work, so work cannot end before.
func (c *Control) teardown(ctx context.Context, e *entry) {
	c.work.Go(func() {
		c.slot <- struct{}{}
		defer func() { <-c.slot }()
		_, err := c.finish(ctx, e)
		c.logFailure("end sandbox", e.id, err)
	})
}

// finish frees what a retired sandbox held and deletes its row; did is false
// when that had been done. It goes on if ctx ends. After an error it is tried
// again later.
func (c *Control) finish(ctx context.Context, e *entry) (did bool, err error) {
	e.change.Lock()
	defer e.change.Unlock()
	c.mu.RLock()
	gone := e.gone
	c.mu.RUnlock()
	if gone {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
	defer cancel()
	if err := c.host.Destroy(ctx, e.id); err != nil {
		c.retryLater(e)
		return false, fmt.Errorf("destroy sandbox: %w", err)
	}
	if err := c.store.DeleteSandbox(ctx, e.id); err != nil {
		c.retryLater(e)
		return false, fmt.Errorf("delete row: %w", err)
	}
	c.opt.Logger.Info("sandbox ended", "sandbox_id", e.id, "reason", c.forget(e))
	return true, nil
}

// retryLater lets the reaper try again, after 1 s, 2 s, 4 s … up to a minute.
func (c *Control) retryLater(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delay := min(time.Second<<min(e.tries, 6), maxRetryDelay)
	e.tries++
	c.schedule(e, c.opt.Now().Add(delay))
}

// forget drops an entry and returns why it ended.
func (c *Control) forget(e *entry) (reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unschedule(e)
	e.gone = true
	e.sandbox.State = sandbox.Stopped
	delete(c.entries, e.id)
	return e.reason
}

func (c *Control) logFailure(op string, id sandbox.ID, err error) {
	if err != nil {
		c.opt.Logger.Error("operation failed; it will be tried again", "operation", op, "sandbox_id", id, "error", err)
	}
}
