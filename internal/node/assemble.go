package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/internal/agentclient"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/rootfs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// hostname is what every sandbox calls itself: the same everywhere, so that a
// template's /etc/hosts knows it.
const hostname = "sandbox"

// launchTimeout bounds a launch, so that one that hangs cannot stop a pool.
const launchTimeout = 30 * time.Second

// step is one acquisition of a launch and its undo, which must work whether or
// not do succeeded half-way.
type step struct {
	name string
	do   func(context.Context) error
	undo func(context.Context) error
}

// assembly is a launch under way.
type assembly struct {
	node     *Node
	template sandbox.Template
	box      *box
	layer    string
	upper    rootfs.Upper
}

// assemble starts a sandbox nobody has claimed yet. On error everything it
// acquired is given back, in reverse order.
func (n *Node) assemble(ctx context.Context, t sandbox.Template) (*box, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, launchTimeout, errs.New(errs.Timeout, "the sandbox did not start within %s", launchTimeout))
	defer cancel()
	a := &assembly{node: n, template: t, box: &box{id: sandbox.NewID()}}
	var done []step
	for _, s := range a.steps() {
		done = append(done, s)
		if err := n.try(ctx, s); err != nil {
			err = fmt.Errorf("%s: %w", s.name, err)
			return nil, errors.Join(err, unwind(context.WithoutCancel(ctx), done))
		}
	}
	return a.box, nil
}

// try runs a step; tests may inject a fault before and after it.
func (n *Node) try(ctx context.Context, s step) error {
	if n.fault == nil {
		return s.do(ctx)
	}
	if err := n.fault("before " + s.name); err != nil {
		return err
	}
	if err := s.do(ctx); err != nil {
		return err
	}
	return n.fault("after " + s.name)
}

// unwind gives back in reverse order. It stops at what cannot be undone: while a
// process may live, its id range and directory must not become another's. The
// sweep at the next start finds what is left.
func unwind(ctx context.Context, done []step) error {
	for _, d := range slices.Backward(done) {
		if d.undo == nil {
			continue
		}
		if err := d.undo(ctx); err != nil {
			return fmt.Errorf("undo %s: %w", d.name, err)
		}
	}
	return nil
}

// steps in order; each may use what those before it acquired.
func (a *assembly) steps() []step {
	steps := []step{
		{"mount image", a.mountImage, nil},
		{"acquire slot", a.acquireSlot, a.releaseSlot},
		{"make upper", a.makeUpper, a.deleteUpper},
		{"create instance", a.createInstance, a.destroyInstance},
	}
	if a.node.opts.Network != nil {
		steps = append(steps, step{"attach network", a.attachNetwork, a.detachNetwork})
	}
	return append(steps,
		step{"record box", a.recordBox, a.deleteRecord},
		step{"start instance", a.startInstance, nil},
		step{"register box", a.register, a.unregister},
	)
}

func (a *assembly) mountImage(ctx context.Context) (err error) {
	a.layer, err = a.node.opts.Images.Mount(ctx, a.template.Image)
	return err
}

func (a *assembly) acquireSlot(context.Context) (err error) {
	a.box.slot = -1
	a.box.slot, err = a.node.opts.Slots.Acquire()
	if err != nil {
		a.box.slot = -1
	}
	return err
}

func (a *assembly) releaseSlot(context.Context) error {
	if a.box.slot >= 0 {
		a.node.opts.Slots.Release(a.box.slot)
	}
	return nil
}

func (a *assembly) makeUpper(context.Context) (err error) {
	a.upper, err = a.node.opts.Uppers.Create(a.box.id, a.template.Limits.OrDefault().DiskBytes)
	return err
}

func (a *assembly) deleteUpper(context.Context) error { return a.node.opts.Uppers.Delete(a.box.id) }

func (a *assembly) createInstance(ctx context.Context) error {
	i, err := a.node.opts.Driver.Create(ctx, driver.Spec{
		ID: a.box.id, Layers: []string{a.layer}, Upper: a.upper.Up, Work: a.upper.Work,
		UIDBase: a.box.slot.UIDBase(), Hostname: hostname, Limits: a.template.Limits.OrDefault(),
	})
	if err != nil {
		return err
	}
	a.box.adopt(i)
	return nil
}

// adopt gives the box its instance and the way to its agent.
func (b *box) adopt(i driver.Instance) {
	b.instance = i
	b.agent = agentclient.New(func(ctx context.Context) (net.Conn, error) { return i.Dial(ctx) })
}

func (a *assembly) destroyInstance(ctx context.Context) error {
	if a.box.instance == nil {
		return nil
	}
	a.box.agent.Close()
	return a.box.instance.Destroy(ctx)
}

func (a *assembly) attachNetwork(ctx context.Context) error {
	return a.node.opts.Network.Attach(ctx, a.box.instance.State().PID, a.box.link())
}

func (a *assembly) detachNetwork(ctx context.Context) error {
	return a.node.opts.Network.Detach(ctx, a.box.link())
}

func (a *assembly) recordBox(ctx context.Context) error { return a.node.put(ctx, a.box, false) }

func (a *assembly) deleteRecord(ctx context.Context) error {
	return a.node.opts.Boxes.DeleteBox(ctx, a.box.id)
}

func (a *assembly) startInstance(ctx context.Context) error { return a.box.instance.Start(ctx) }

// register makes the box known. From here on Destroy is its undo.
func (a *assembly) register(context.Context) error {
	a.node.mu.Lock()
	defer a.node.mu.Unlock()
	if a.node.closed {
		return errs.New(errs.Unavailable, "the server is shutting down")
	}
	a.node.boxes[a.box.id] = a.box
	a.node.watch(a.box)
	return nil
}

func (a *assembly) unregister(context.Context) error {
	a.node.mu.Lock()
	defer a.node.mu.Unlock()
	a.box.destroying = true
	delete(a.node.boxes, a.box.id)
	return nil
}

// Destroy ends a sandbox and frees what it held. It is idempotent; concurrent
// calls wait for each other. What fails is tried again by the next call or by
// the sweep at the next start.
func (n *Node) Destroy(ctx context.Context, id sandbox.ID) error {
	n.mu.Lock()
	b, ok := n.boxes[id]
	if ok {
		b.destroying = true
	}
	n.mu.Unlock()
	if !ok {
		return nil
	}
	b.destroy.Lock()
	defer b.destroy.Unlock()
	if b.gone {
		return nil
	}
	if err := n.release(ctx, b); err != nil {
		return fmt.Errorf("destroy %s: %w", id, err)
	}
	b.gone = true
	n.mu.Lock()
	delete(n.boxes, id)
	n.mu.Unlock()
	return nil
}

// release gives back what a box holds. The order matters: the processes first,
// the slot last, when nothing of its user remains.
func (n *Node) release(ctx context.Context, b *box) error {
	b.agent.Close()
	if err := b.instance.Destroy(ctx); err != nil {
		return err
	}
	if n.opts.Network != nil {
		// The kernel removes the interface with the namespace, many at a time
		// and in the background; doing it here would wait for each.
		if err := n.opts.Network.Forget(b.link()); err != nil {
			return err
		}
	}
	if err := n.opts.Uppers.Delete(b.id); err != nil {
		return err
	}
	if err := n.opts.Boxes.DeleteBox(ctx, b.id); err != nil {
		return err
	}
	n.opts.Slots.Release(b.slot)
	return nil
}
