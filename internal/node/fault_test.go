package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/driver/fault"
	"github.com/sandlot-dev/sandlot/internal/netns"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/slot"
	"github.com/sandlot-dev/sandlot/internal/store"
)

var errInjected = errors.New("injected")

// mustLaunch proves that the parts still work, and leaves nothing itself.
func (p *realParts) mustLaunch(t *testing.T) {
	t.Helper()
	id, err := p.node.Launch(t.Context(), request())
	if err != nil {
		t.Fatalf("launch: %v", err)
	}
	conn, err := p.node.DialAgent(t.Context(), id)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	conn.Close()
	check(t, "destroy", p.node.Destroy(t.Context(), id))
	p.wantNothing(t)
}

// points runs a launch and returns every place where a fault may be injected.
func (p *realParts) points(t *testing.T) []string {
	t.Helper()
	var points []string
	p.node.fault = func(step string) error { points = append(points, step); return nil }
	p.mustLaunch(t)
	p.node.fault = nil
	if len(points) < 14 {
		t.Fatalf("only %q can fail", points)
	}
	return points
}

// Whatever step fails, before or after it did its work, nothing stays, and the
// next launch works.
func TestFaultAtEveryStep(t *testing.T) {
	p := openReal(t)
	points := p.points(t)
	before := measureInside(t)
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			p.node.fault = func(step string) error {
				if step == point {
					return errInjected
				}
				return nil
			}
			defer func() { p.node.fault = nil }()
			if _, err := p.node.Launch(t.Context(), request()); !errors.Is(err, errInjected) {
				t.Fatalf("launch: %v, want the injected error", err)
			}
			p.wantNothing(t)
			wantFootprint(t, before)
			p.node.fault = nil
			p.mustLaunch(t)
			wantFootprint(t, before)
		})
	}
}

// The caller goes away at every step: the same as a fault there.
func TestCancelAtEveryStep(t *testing.T) {
	p := openReal(t)
	points := p.points(t)
	before := measureInside(t)
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			p.node.fault = func(step string) error {
				if step == point {
					cancel(errInjected)
				}
				return nil
			}
			defer func() { p.node.fault = nil }()
			id, err := p.node.Launch(ctx, request())
			cancel(nil)
			if err == nil {
				t.Errorf("a launch nobody waits for gave %s", id)
				check(t, "destroy", p.node.Destroy(t.Context(), id))
			}
			p.wantNothing(t)
			wantFootprint(t, before)
		})
	}
}

type boxStore = store.Boxes // an embedded field named Boxes would hide the method

// failing makes single methods of the parts fail.
type failing struct {
	Uppers
	Slots
	Network
	boxStore
	putBox func(n int) error
	attach func(netns.Link) error
	puts   atomic.Int32
}

func (f *failing) PutBox(ctx context.Context, b store.Box) error {
	n := int(f.puts.Add(1))
	if f.putBox != nil {
		if err := f.putBox(n); err != nil {
			return err
		}
	}
	return f.boxStore.PutBox(ctx, b)
}

func (f *failing) Attach(ctx context.Context, pid int, l netns.Link) error {
	if err := f.Network.Attach(ctx, pid, l); err != nil {
		return err
	}
	if f.attach != nil {
		return f.attach(l)
	}
	return nil
}

// What the parts themselves refuse, early and late.
func TestFaultsOfTheParts(t *testing.T) {
	inject := func(context.Context, driver.State) error { return errInjected }
	for name, breakIt := range map[string]func(*fault.Hooks, *failing){
		"create": func(h *fault.Hooks, _ *failing) {
			h.Create = func(context.Context, driver.Spec) error { return errInjected }
		},
		"created":          func(h *fault.Hooks, _ *failing) { h.Created = inject },
		"start":            func(h *fault.Hooks, _ *failing) { h.Start = inject },
		"started":          func(h *fault.Hooks, _ *failing) { h.Started = inject },
		"claim: dial":      func(h *fault.Hooks, _ *failing) { h.Dial = inject },
		"first put":        func(_ *fault.Hooks, f *failing) { f.putBox = nth(1) },
		"claim: put":       func(_ *fault.Hooks, f *failing) { f.putBox = nth(2) },
		"attached network": func(_ *fault.Hooks, f *failing) { f.attach = func(netns.Link) error { return errInjected } },
	} {
		t.Run(name, func(t *testing.T) {
			p := openReal(t)
			p.mustLaunch(t)
			before := measure(t)
			f := &failing{Uppers: p.uppers, Slots: p.slots, Network: p.network, boxStore: p.store}
			hooks := &fault.Hooks{}
			breakIt(hooks, f)
			opts := p.options(hooks)
			opts.Network, opts.Boxes = f, f
			n := New(opts)
			if _, err := n.Launch(t.Context(), request()); !errors.Is(err, errInjected) {
				t.Fatalf("launch: %v, want the injected error", err)
			}
			check(t, "close", n.Close(t.Context()))
			p.wantNothing(t)
			wantFootprint(t, before)
			p.mustLaunch(t)
		})
	}
}

func nth(want int) func(int) error {
	return func(n int) error {
		if n == want {
			return errInjected
		}
		return nil
	}
}

// Broken ingredients make real launches fail half-way inside the driver and the
// network, where no hook reaches.
func TestBrokenIngredients(t *testing.T) {
	for name, breakIt := range map[string]func(*testing.T, *realParts){
		"the image is missing":       func(_ *testing.T, p *realParts) { p.image += "/missing" },
		"the image has no /dev":      func(t *testing.T, p *realParts) { p.image = t.TempDir() },
		"the image's /run is a file": func(t *testing.T, p *realParts) { p.image = imageWithout(t, "run") },
		"the interface's name is taken": func(t *testing.T, p *realParts) {
			p.takeNextName(t)
		},
		"the limits are impossible": func(*testing.T, *realParts) {},
	} {
		t.Run(name, func(t *testing.T) {
			p := openReal(t)
			p.mustLaunch(t)
			before := measure(t)
			whole := p.image
			breakIt(t, p)
			p.node.opts.Images = imageDir(p.image)
			req := request()
			if name == "the limits are impossible" {
				req.Template.Limits.MemoryBytes = 1
			}
			if id, err := p.node.Launch(t.Context(), req); err == nil {
				t.Fatalf("launched %s", id)
			} else {
				t.Log(err)
			}
			p.dropTaken(t)
			p.wantNothing(t)
			wantFootprint(t, before)
			p.node.opts.Images = imageDir(whole)
			p.mustLaunch(t)
		})
	}
}

// imageWithout returns an image in which a directory is a file.
func imageWithout(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"dev", "proc", "sys"} {
		check(t, "make image", os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	check(t, "make image", os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	return dir
}

// takeNextName makes an interface with the name of the slot that comes next,
// behind the back of the slots' own check.
func (p *realParts) takeNextName(t *testing.T) {
	t.Helper()
	s, err := p.slots.Acquire()
	check(t, "acquire", err)
	check(t, "make interface", netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: s.Interface()}, PeerName: "t" + s.Interface()}))
	p.node.opts.Slots = &oneSlot{Slots: p.slots, slot: s}
}

func (p *realParts) dropTaken(t *testing.T) {
	t.Helper()
	if o, ok := p.node.opts.Slots.(*oneSlot); ok {
		check(t, "remove interface", netns.RemoveInterface(o.slot.Interface()))
		p.slots.Release(o.slot)
		p.node.opts.Slots = p.slots
	}
}

// oneSlot hands out one slot whatever the state of the host.
type oneSlot struct {
	Slots
	slot slot.Slot
}

func (o *oneSlot) Acquire() (slot.Slot, error) { return o.slot, nil }
func (o *oneSlot) Release(slot.Slot)           {}

// A sandbox whose first process dies at any moment of its life is cleared away
// by whoever owns it then.
func TestDeathAtEveryStep(t *testing.T) {
	p := openReal(t)
	points := p.points(t)
	before := measureInside(t)
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			p.node.fault = func(step string) error {
				if step == point {
					p.killAll(t)
				}
				return nil
			}
			defer func() { p.node.fault = nil }()
			id, err := p.node.Launch(t.Context(), request())
			if err == nil { // killed before it existed
				check(t, "destroy", p.node.Destroy(t.Context(), id))
			}
			p.wantNothing(t)
			wantFootprint(t, before)
		})
	}
}

// killAll kills every process of these parts' sandboxes and waits for the end.
func (p *realParts) killAll(t *testing.T) {
	t.Helper()
	for _, pid := range p.processes() {
		_ = unix.Kill(pid, unix.SIGKILL) // gone already: fine
	}
	for deadline := time.Now().Add(5 * time.Second); len(p.processes()) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("sandboxes' processes do not die")
		}
		time.Sleep(time.Millisecond)
	}
}

// Launches, destroys, deaths and faults all at once.
func TestChurn(t *testing.T) {
	p := openReal(t)
	p.mustLaunch(t)
	before := measure(t)
	var exits sync.WaitGroup
	opts := p.options(p.hooks)
	opts.PoolMax = 4
	var n *Node
	opts.OnExit = func(id sandbox.ID) {
		exits.Add(1)
		defer exits.Done()
		check(t, "destroy after exit", n.Destroy(context.Background(), id))
	}
	n = New(opts)
	var calls atomic.Int32
	n.fault = func(string) error {
		if calls.Add(1)%37 == 0 {
			return errInjected
		}
		return nil
	}
	var workers sync.WaitGroup
	for w := range 8 {
		workers.Go(func() {
			for round := range 12 {
				id, err := n.Launch(t.Context(), request())
				if err != nil {
					if !errors.Is(err, errInjected) {
						t.Errorf("launch: %v", err)
					}
					continue
				}
				if (w+round)%3 == 0 {
					n.mu.Lock()
					b := n.boxes[id]
					n.mu.Unlock()
					_ = b.instance.Signal(t.Context(), sandbox.SIGKILL) // may have lost against nobody
				}
				check(t, "destroy", n.Destroy(t.Context(), id))
			}
		})
	}
	workers.Wait()
	check(t, "close", n.Close(t.Context()))
	exits.Wait()
	p.wantNothing(t)
	wantFootprint(t, before)
}
