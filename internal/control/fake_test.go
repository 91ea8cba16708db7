package control_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store"
	"github.com/sandlot-dev/sandlot/internal/store/memory"
)

// host is a fake host. The functions, if set, run before the ordinary answer.
type host struct {
	mu        sync.Mutex
	onLaunch  func(context.Context) error
	onDestroy func(sandbox.ID) error
	onStats   func() (sandbox.Stats, error)
	alive     map[sandbox.ID]bool
	launches  int
	destroyed map[sandbox.ID]int
	most      int // alive at once
}

func newHost() *host {
	return &host{alive: make(map[sandbox.ID]bool), destroyed: make(map[sandbox.ID]int)}
}

func (h *host) Launch(ctx context.Context, _ control.LaunchRequest) (sandbox.ID, error) {
	h.mu.Lock()
	f := h.onLaunch
	h.mu.Unlock()
	if f != nil {
		if err := f(ctx); err != nil {
			return "", err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := sandbox.NewID()
	h.alive[id] = true
	h.launches++
	h.most = max(h.most, len(h.alive))
	return id, nil
}

func (h *host) Destroy(_ context.Context, id sandbox.ID) error {
	h.mu.Lock()
	f := h.onDestroy
	h.mu.Unlock()
	if f != nil {
		if err := f(id); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.alive, id)
	h.destroyed[id]++
	return nil
}

func (h *host) Alive(id sandbox.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.alive[id]
}

func (h *host) Launched() []sandbox.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.alive))
}

func (h *host) Stats(_ context.Context, id sandbox.ID) (sandbox.Stats, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.alive[id] {
		return sandbox.Stats{}, errs.New(errs.NotFound, "%s does not run", id)
	}
	if h.onStats == nil {
		return sandbox.Stats{}, nil
	}
	return h.onStats()
}

// measuring sets what every sandbox uses.
func (h *host) measuring(f func() (sandbox.Stats, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onStats = f
}

// launching and destroying set what runs before; nil for nothing.
func (h *host) launching(f func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onLaunch = f
}

func (h *host) destroying(f func(sandbox.ID) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onDestroy = f
}

func (h *host) die(id sandbox.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.alive, id)
}

// templates knows one template.
type templates struct{}

var base = sandbox.Template{ID: "t0000000000000000000", BuildID: "b1", Aliases: []string{"base"}, Public: true}

func (t templates) SetLimits(ctx context.Context, ref string, l sandbox.Limits) (sandbox.Template, error) {
	tpl, err := t.Resolve(ctx, ref)
	tpl.Limits = l.Or(tpl.Limits)
	return tpl, err
}

func (templates) Resolve(_ context.Context, ref string) (sandbox.Template, error) {
	if ref != base.ID && ref != "base" {
		return sandbox.Template{}, errs.New(errs.NotFound, "template %q not found", ref)
	}
	return base, nil
}

func (templates) List(context.Context) ([]sandbox.Template, error) {
	return []sandbox.Template{base}, nil
}

// registry is a store whose writes can be made to fail.
type registry struct {
	store.Store
	mu       sync.Mutex
	onPut    func() error
	onDelete func() error
}

func newRegistry() *registry { return &registry{Store: memory.New()} }

func (r *registry) fail(put, del func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onPut, r.onDelete = put, del
}

func (r *registry) PutSandbox(ctx context.Context, s store.Sandbox) error {
	r.mu.Lock()
	f := r.onPut
	r.mu.Unlock()
	if f != nil {
		if err := f(); err != nil {
			return err
		}
	}
	return r.Store.PutSandbox(ctx, s)
}

func (r *registry) DeleteSandbox(ctx context.Context, id sandbox.ID) error {
	r.mu.Lock()
	f := r.onDelete
	r.mu.Unlock()
	if f != nil {
		if err := f(); err != nil {
			return err
		}
	}
	return r.Store.DeleteSandbox(ctx, id)
}

func (r *registry) rows(t testing.TB) []store.Sandbox {
	t.Helper()
	rows, err := r.Sandboxes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// rig is a running Control and what it stands on.
type rig struct {
	*control.Control
	host *host
	reg  *registry
	opt  control.Options
}

// start returns a running Control that is closed with the test.
func start(t testing.TB, opt control.Options) *rig {
	t.Helper()
	r := &rig{host: newHost(), reg: newRegistry(), opt: opt}
	r.boot(t)
	return r
}

// boot starts a Control on the host and registry of r, as after a restart.
func (r *rig) boot(t testing.TB) {
	t.Helper()
	c := control.New(r.host, templates{}, r.reg, r.opt)
	if err := c.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	r.Control = c
}

func (r *rig) create(t testing.TB, d time.Duration) control.Sandbox {
	t.Helper()
	s, err := r.Create(t.Context(), control.CreateRequest{Template: "base", Timeout: d})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantNothing fails unless host and registry are empty.
func (r *rig) wantNothing(t testing.TB) {
	t.Helper()
	if alive := r.host.Launched(); len(alive) > 0 {
		t.Errorf("still alive: %v", alive)
	}
	if rows := r.reg.rows(t); len(rows) > 0 {
		t.Errorf("still in the registry: %v", rows)
	}
	if page, err := r.List(control.ListRequest{}); err != nil || len(page.Sandboxes) > 0 {
		t.Errorf("still listed: %v, %v", page.Sandboxes, err)
	}
}

func wantKind(t testing.TB, err error, kind errs.Kind) {
	t.Helper()
	if !errs.Is(err, kind) {
		t.Errorf("error is %v (kind %v), want kind %v", err, errs.KindOf(err), kind)
	}
}

var errFault = errors.New("injected fault")

func fault() error { return errFault }
