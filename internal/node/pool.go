package node

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// The pool's size follows demand: enough for what was asked in the last window,
// at least a few, at most the ceiling.
const (
	poolMin    = 4
	poolWindow = 30 * time.Second
	poolLinger = 5 * time.Minute // before unused ones are given back
	retryPause = time.Second     // after a launch that failed
	retryLimit = 30 * time.Second
	// courtesy is how long a pool that is not nearly empty leaves the processors
	// to the sandbox just taken from it, whose first command is about to come.
	courtesy    = 25 * time.Millisecond
	demandShare = 0.25 // of a window's launches that may come at once
)

// pool holds started sandboxes of one template.
type pool struct {
	node     *Node
	template sandbox.Template
	wake     chan struct{} // capacity 1
	stop     context.CancelFunc

	mu      sync.Mutex
	ready   []*box
	claims  []time.Time // within the last window, bounded by the ceiling × 8
	lastUse time.Time
}

// key tells templates apart whose sandboxes are not interchangeable.
func key(t sandbox.Template) string { return t.ID + "/" + t.BuildID + "/" + t.Image }

// pool returns the template's pool, and starts it the first time.
func (n *Node) pool(t sandbox.Template) *pool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.pools[key(t)]
	if ok && p.template.Limits == t.Limits {
		return p
	}
	if ok {
		p.stop() // the limits have changed: its sandboxes are of no use any more
	}
	ctx, stop := context.WithCancel(n.ctx)
	p = &pool{node: n, template: t, wake: make(chan struct{}, 1), lastUse: time.Now(), stop: stop}
	n.pools[key(t)] = p
	if !n.closed {
		n.work.Go(func() { p.own(ctx) })
	}
	return p
}

// own fills the pool until it is replaced or the node closes, and then removes
// what waits in it.
func (p *pool) own(ctx context.Context) {
	p.fill(ctx)
	p.mu.Lock()
	left := p.ready
	p.ready = nil
	p.mu.Unlock()
	for _, b := range left {
		p.discard(ctx, b)
	}
}

// Warm starts the pool of a template before anybody asks for it.
func (n *Node) Warm(t sandbox.Template) {
	if n.opts.PoolMax > 0 {
		n.pool(t)
	}
}

// take returns a ready sandbox, or nil. It never waits for the filling.
func (p *pool) take() *box {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.lastUse = now
	if len(p.claims) < 8*p.node.opts.PoolMax {
		p.claims = append(p.claims, now)
	}
	defer p.signal()
	for len(p.ready) > 0 {
		b := p.ready[0]
		p.ready = p.ready[1:]
		if p.node.usable(b) {
			return b
		}
	}
	return nil
}

func (n *Node) usable(b *box) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.boxes[b.id] == b && !b.exited && !b.destroying
}

func (p *pool) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// target is how many should be ready now.
func (p *pool) target(now time.Time) int {
	recent := p.claims[:0]
	for _, t := range p.claims {
		if now.Sub(t) < poolWindow {
			recent = append(recent, t)
		}
	}
	p.claims = recent
	demand := int(math.Ceil(float64(len(recent)) * demandShare))
	return min(p.node.opts.PoolMax, max(poolMin, demand))
}

// missing returns how many launches the pool lacks, and whether they may wait a
// little; below zero it holds more than it needs, and the surplus is returned
// once it has lingered.
func (p *pool) missing() (lack int, calm bool, surplus []*box) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.ready = slices.DeleteFunc(p.ready, func(b *box) bool { return !p.node.usable(b) })
	target := p.target(now)
	lack, calm = target-len(p.ready), 2*len(p.ready) >= target
	if lack < 0 && now.Sub(p.lastUse) > poolLinger {
		surplus = append(surplus, p.ready[:-lack]...)
		p.ready = p.ready[-lack:]
	}
	return lack, calm, surplus
}

// fill owns the pool. It starts few sandboxes at a time, since every launch is
// processor time taken from those in use; two, because on cgroup v1 half of a
// launch is waiting for the kernel.
func (p *pool) fill(ctx context.Context) {
	pause := retryPause
	for ctx.Err() == nil {
		lack, calm, surplus := p.missing()
		for _, b := range surplus {
			p.discard(ctx, b)
		}
		if lack <= 0 {
			p.sleep(ctx, poolWindow)
			continue
		}
		if calm {
			p.sleepFixed(ctx, courtesy)
		}
		if err := p.launchSome(ctx, min(lack, 2)); err != nil && ctx.Err() == nil {
			p.node.opts.Logger.Error("fill pool", "template", p.template.ID, "error", err)
			p.sleepFixed(ctx, pause)
			pause = min(2*pause, retryLimit)
			continue
		}
		pause = retryPause
	}
}

func (p *pool) launchSome(ctx context.Context, n int) error {
	var g errgroup.Group
	for range n {
		g.Go(func() error { return p.launch(ctx) })
	}
	return g.Wait()
}

func (p *pool) launch(ctx context.Context) error {
	b, err := p.node.assemble(ctx, p.template)
	if err != nil {
		return err
	}
	// An answer means that the agent's start is over, and not the claimer's to
	// wait for.
	if err := b.agent.Ping(ctx); err != nil {
		p.discard(ctx, b)
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, b)
	return nil
}

func (p *pool) discard(ctx context.Context, b *box) {
	if err := p.node.Destroy(context.WithoutCancel(ctx), b.id); err != nil {
		p.node.opts.Logger.Error("remove pooled sandbox", "sandbox_id", b.id, "error", err)
	}
}

// sleep waits for demand, at most d.
func (p *pool) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.wake:
	case <-t.C:
	case <-ctx.Done():
	}
}

// sleepFixed waits d whatever is asked.
func (p *pool) sleepFixed(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Ready returns how many sandboxes of a template wait.
func (n *Node) Ready(t sandbox.Template) int {
	n.mu.Lock()
	p, ok := n.pools[key(t)]
	n.mu.Unlock()
	if !ok {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ready)
}
