// Package node runs sandboxes on one host: it assembles each from a slot, an
// upper, an isolation instance and a network, keeps started ones ready in a
// pool per template, finds them again after a restart, and sweeps what a crash
// left. It owns the boxes (live sandboxes and what they hold) and says which
// parts it needs; only the composition root makes one.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/agentclient"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/netns"
	"github.com/sandlot-dev/sandlot/internal/rootfs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/slot"
	"github.com/sandlot-dev/sandlot/internal/store"
)

// Images makes root file system images readable.
type Images interface {
	// Mount returns the directory an image can be read at. It is idempotent.
	Mount(ctx context.Context, digest string) (string, error)
}

// Uppers makes what sandboxes write to (rootfs.Pool).
type Uppers interface {
	Create(id sandbox.ID, limit int64) (rootfs.Upper, error)
	Delete(id sandbox.ID) error
	List() ([]sandbox.ID, error)
	// Usage returns the bytes an upper holds, -1 if nobody counts them.
	Usage(id sandbox.ID) int64
}

// Slots hands out host-wide numbers (slot.Pool).
type Slots interface {
	Acquire() (slot.Slot, error)
	Reserve(slot.Slot)
	Release(slot.Slot)
}

// Network connects sandboxes (netns.Network).
type Network interface {
	Attach(ctx context.Context, pid int, l netns.Link) error
	Detach(ctx context.Context, l netns.Link) error
	Forget(l netns.Link) error
}

// Options are the parts of a node.
type Options struct {
	Driver driver.Driver
	Images Images
	Uppers Uppers
	Slots  Slots
	// Network is nil for sandboxes without one.
	Network Network
	Boxes   store.Boxes
	// PoolMax bounds how many started sandboxes wait per template; 0 means none.
	PoolMax int
	// MaxProcesses bounds how many processes each sandbox launched from now on may
	// run at once through its API; 0 means any number.
	MaxProcesses int
	// OnExit is told of a sandbox that was launched and has ended by itself. It
	// is called on a goroutine of its own.
	OnExit func(sandbox.ID)
	Logger *slog.Logger
}

// Node runs sandboxes. It is safe for concurrent use.
type Node struct {
	opts Options
	// fault, set by tests, may fail a step of a launch before or after it.
	fault func(step string) error

	ctx  context.Context // of the goroutines below; ended by Close
	stop context.CancelCauseFunc
	work sync.WaitGroup

	mu     sync.Mutex
	closed bool
	boxes  map[sandbox.ID]*box
	pools  map[string]*pool
}

// box is one live sandbox and what it holds.
type box struct {
	id       sandbox.ID
	slot     slot.Slot
	instance driver.Instance
	agent    *agentclient.Client

	claimed    bool // guarded by Node.mu
	exited     bool // its first process has ended; guarded by Node.mu
	destroying bool // guarded by Node.mu
	destroy    sync.Mutex
	gone       bool // guarded by destroy
}

// record is what the store keeps of a box.
type record struct {
	Slot    slot.Slot    `json:"slot"`
	Claimed bool         `json:"claimed"`
	State   driver.State `json:"state"`
}

func (b *box) link() netns.Link { return link(b.slot) }

func link(s slot.Slot) netns.Link { return netns.Link{Name: s.Interface(), Addr: s.Address()} }

// New returns a node without sandboxes; Recover finds those of an earlier
// process. End it with Close.
func New(o Options) *Node {
	ctx, stop := context.WithCancelCause(context.Background())
	return &Node{opts: o, ctx: ctx, stop: stop, boxes: map[sandbox.ID]*box{}, pools: map[string]*pool{}}
}

// Close stops filling pools and removes the sandboxes that wait in them.
// Launched sandboxes go on.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.stop(errs.New(errs.Unavailable, "the server is shutting down"))
	n.work.Wait()
	return n.destroyAll(ctx, n.waiting())
}

// waiting returns the sandboxes nobody has claimed.
func (n *Node) waiting() []sandbox.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []sandbox.ID
	for id, b := range n.boxes {
		if !b.claimed {
			ids = append(ids, id)
		}
	}
	return ids
}

func (n *Node) destroyAll(ctx context.Context, ids []sandbox.ID) error {
	var all error
	for _, id := range ids {
		all = errors.Join(all, n.Destroy(ctx, id))
	}
	return all
}

// bypass is the context key that makes a launch pass the pool by.
type bypass struct{}

// WithoutPool returns a context whose launches start from nothing; for
// measuring them.
func WithoutPool(ctx context.Context) context.Context {
	return context.WithValue(ctx, bypass{}, true)
}

type source struct{}

// WithSource returns a context whose launch calls report, on its own goroutine
// and before it returns, with whether the sandbox came from the pool.
func WithSource(ctx context.Context, report func(fromPool bool)) context.Context {
	return context.WithValue(ctx, source{}, report)
}

func reportSource(ctx context.Context, fromPool bool) {
	if report, ok := ctx.Value(source{}).(func(bool)); ok {
		report(fromPool)
	}
}

// launchTries bounds how often a launch starts over because the sandbox it got
// from the pool had just died.
const launchTries = 3

// Launch returns a running sandbox: one that waited in the template's pool, or,
// when there is none, a new one.
func (n *Node) Launch(ctx context.Context, req sandbox.LaunchRequest) (sandbox.ID, error) {
	var failed error
	for range launchTries {
		b, pooled, err := n.obtain(ctx, req.Template)
		if err != nil {
			return "", err
		}
		if err = n.claim(ctx, b, req); err == nil {
			reportSource(ctx, pooled)
			return b.id, nil
		}
		failed = errors.Join(err, n.abandon(context.WithoutCancel(ctx), b))
		if !pooled || ctx.Err() != nil {
			break
		}
	}
	return "", failed
}

// abandon removes a box whose claim failed. The claim may have written the
// record after somebody else had removed the box with it.
func (n *Node) abandon(ctx context.Context, b *box) error {
	return errors.Join(n.Destroy(ctx, b.id), n.opts.Boxes.DeleteBox(ctx, b.id))
}

// obtain takes a waiting sandbox, or starts one.
func (n *Node) obtain(ctx context.Context, t sandbox.Template) (b *box, pooled bool, err error) {
	skip, _ := ctx.Value(bypass{}).(bool)
	if !skip && n.opts.PoolMax > 0 {
		if b := n.pool(t).take(); b != nil {
			return b, true, nil
		}
	}
	b, err = n.assemble(ctx, t)
	return b, false, err
}

// claim makes b the caller's: the agent learns its settings, the store that it
// is no longer anybody's to sweep.
func (n *Node) claim(ctx context.Context, b *box, req sandbox.LaunchRequest) error {
	err := b.agent.Init(ctx, agentclient.Init{
		Env: mergeEnv(req.Template.Env, req.Env), DefaultUser: req.Template.User, DefaultWorkdir: req.Template.Workdir,
		MaxProcesses: n.opts.MaxProcesses,
	})
	if err != nil {
		return fmt.Errorf("initialise agent of %s: %w", b.id, err)
	}
	if err := n.put(ctx, b, true); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.boxes[b.id] != b || b.exited || b.destroying {
		return errs.New(errs.Unavailable, "the sandbox ended while it was being started")
	}
	b.claimed = true
	return nil
}

func mergeEnv(template, own map[string]string) map[string]string {
	env := make(map[string]string, len(template)+len(own))
	maps.Copy(env, template)
	maps.Copy(env, own)
	return env
}

func (n *Node) put(ctx context.Context, b *box, claimed bool) error {
	data, err := json.Marshal(record{Slot: b.slot, Claimed: claimed, State: b.instance.State()})
	if err != nil {
		return err
	}
	if err := n.opts.Boxes.PutBox(ctx, store.Box{ID: b.id, Data: data}); err != nil {
		return fmt.Errorf("record %s: %w", b.id, err)
	}
	return nil
}

// Alive reports whether a launched sandbox runs.
func (n *Node) Alive(id sandbox.ID) bool {
	_, err := n.launched(id)
	return err == nil
}

// Launched returns the sandboxes that Launch handed out and that are not
// destroyed, also those whose processes have ended.
func (n *Node) Launched() []sandbox.ID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []sandbox.ID
	for id, b := range n.boxes {
		if b.claimed {
			ids = append(ids, id)
		}
	}
	return ids
}

func (n *Node) launched(id sandbox.ID) (*box, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b, ok := n.boxes[id]
	if !ok || !b.claimed || b.exited || b.destroying {
		return nil, errs.New(errs.NotFound, "sandbox %s does not run", id)
	}
	return b, nil
}

// DialAgent connects to a sandbox's agent. It fails with errs.NotFound when the
// sandbox does not run.
func (n *Node) DialAgent(ctx context.Context, id sandbox.ID) (net.Conn, error) {
	b, err := n.launched(id)
	if err != nil {
		return nil, err
	}
	return b.instance.Dial(ctx)
}

// DialPort connects to a TCP port on the sandbox's own loopback. It fails with
// errs.Unavailable when nothing listens there.
func (n *Node) DialPort(ctx context.Context, id sandbox.ID, port uint16) (net.Conn, error) {
	b, err := n.launched(id)
	if err != nil {
		return nil, err
	}
	return b.agent.DialPort(ctx, port)
}

// Stats returns what a sandbox uses. It fails with errs.NotFound when the
// sandbox does not run.
func (n *Node) Stats(ctx context.Context, id sandbox.ID) (sandbox.Stats, error) {
	b, err := n.launched(id)
	if err != nil {
		return sandbox.Stats{}, err
	}
	s, err := b.instance.Stats(ctx)
	if err != nil {
		return sandbox.Stats{}, fmt.Errorf("measure %s: %w", id, err)
	}
	return sandbox.Stats{
		CPUTime: s.CPUTime, MemoryBytes: s.MemoryBytes, CacheBytes: s.CacheBytes,
		DiskBytes: max(n.opts.Uppers.Usage(id), 0),
	}, nil
}

// watch owns the wait for b's end, and reports it unless Destroy caused it.
func (n *Node) watch(b *box) {
	n.work.Go(func() {
		if _, err := b.instance.Wait(n.ctx); err != nil {
			return // the node closes
		}
		if claimed, known := n.noteExit(b); known {
			n.reportExit(b, claimed)
		}
	})
}

// noteExit records that b's processes have ended. From here on b is not alive,
// and if nobody has claimed it, nobody can.
func (n *Node) noteExit(b *box) (claimed, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if b.destroying {
		return false, false
	}
	b.exited = true
	return b.claimed, true
}

func (n *Node) reportExit(b *box, claimed bool) {
	n.opts.Logger.Warn("sandbox ended by itself", "sandbox_id", b.id, "claimed", claimed)
	if claimed && n.opts.OnExit != nil {
		n.opts.OnExit(b.id)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.ctx), 30*time.Second)
	defer cancel()
	if err := n.Destroy(ctx, b.id); err != nil {
		n.opts.Logger.Error("remove ended sandbox", "sandbox_id", b.id, "error", err)
	}
}
