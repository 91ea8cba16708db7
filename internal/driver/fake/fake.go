// Package fake is a driver without isolation, for tests of what uses drivers:
// its sandboxes are entries of a map, and their agents answer /health and
// /sandlot/init over pipes in memory. It passes the suite in drivertest. Only
// tests import it.
package fake

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/agentclient"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Host is where the sandboxes of any number of drivers live: drivers come and
// go as server processes do, the host stays. Its zero value is empty and ready.
// It is safe for concurrent use.
type Host struct {
	mu    sync.Mutex
	boxes map[sandbox.ID]*box
	pids  int
}

// Driver returns a driver for the host.
func (h *Host) Driver() driver.Driver { return &fake{h} }

// Living returns the sandboxes on the host, started or not.
func (h *Host) Living() []sandbox.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make([]sandbox.ID, 0, len(h.boxes))
	for id := range h.boxes {
		ids = append(ids, id)
	}
	return ids
}

// Die ends a sandbox as if its first process had.
func (h *Host) Die(id sandbox.ID) {
	if b := h.box(id); b != nil {
		b.die()
	}
}

// Inits returns what a sandbox's agent was told, in order.
func (h *Host) Inits(id sandbox.ID) []agentclient.Init {
	b := h.box(id)
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]agentclient.Init(nil), b.inits...)
}

func (h *Host) box(id sandbox.ID) *box {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.boxes[id]
}

// firstPID is above every number the kernel gives, so that a mistake hits nobody.
const firstPID = 1 << 23

func (h *Host) add(spec driver.Spec) (*box, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.boxes[spec.ID] != nil {
		return nil, errors.New("the sandbox exists already")
	}
	if h.boxes == nil {
		h.boxes = map[sandbox.ID]*box{}
	}
	h.pids++
	b := newBox(spec, h.pids)
	h.boxes[spec.ID] = b
	return b, nil
}

// remove ends a sandbox and forgets it.
func (h *Host) remove(b *box) {
	b.die()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.boxes[b.state.ID] == b {
		delete(h.boxes, b.state.ID)
	}
}

// fake is one driver of a host.
type fake struct{ host *Host }

func (*fake) Name() string { return "fake" }

func (*fake) Probe(context.Context) (driver.Caps, error) {
	return driver.Caps{Features: []driver.Feature{{Name: "memory", OK: true}}}, nil
}

func (f *fake) Create(ctx context.Context, spec driver.Spec) (driver.Instance, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	b, err := f.host.add(spec)
	if err != nil {
		return nil, err
	}
	return &instance{host: f.host, box: b}, nil
}

func (f *fake) Recover(_ context.Context, st driver.State) (driver.Instance, error) {
	b := f.host.box(st.ID)
	if b == nil || b.state != st || b.ended() {
		return nil, driver.ErrGone
	}
	return &instance{host: f.host, box: b}, nil
}

func (f *fake) Sweep(_ context.Context, keep []driver.State) ([]string, error) {
	kept := map[sandbox.ID]bool{}
	for _, st := range keep {
		kept[st.ID] = true
	}
	var swept []string
	for _, id := range f.host.Living() {
		if b := f.host.box(id); b != nil && !kept[id] {
			f.host.remove(b)
			swept = append(swept, "fake sandbox "+string(id))
		}
	}
	return swept, nil
}

// box is one sandbox.
type box struct {
	state driver.State
	conns chan net.Conn
	dead  chan struct{}

	mu      sync.Mutex
	started bool
	exit    driver.Exit
	frozen  chan struct{} // closed when thawed; nil when not frozen
	inits   []agentclient.Init
}

func newBox(spec driver.Spec, n int) *box {
	return &box{
		state: driver.State{ID: spec.ID, PID: firstPID + n, StartTime: uint64(n), UIDBase: spec.UIDBase},
		conns: make(chan net.Conn), dead: make(chan struct{}),
	}
}

func (b *box) ended() bool {
	select {
	case <-b.dead:
		return true
	default:
		return false
	}
}

func (b *box) die() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended() {
		b.exit = driver.Exit{Code: -1, At: time.Now()}
		close(b.dead)
	}
}

// start serves the agent until the sandbox ends.
func (b *box) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended() {
		return driver.ErrGone
	}
	if b.started {
		return errors.New("sandbox was started already")
	}
	b.started = true
	server := &http.Server{Handler: b.agent()}
	go func() { _ = server.Serve(listener{b}) }() // ends with the box
	go func() { <-b.dead; _ = server.Close() }()
	return nil
}

// agent is the little of an agent that nodes need.
func (b *box) agent() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /sandlot/init", func(w http.ResponseWriter, r *http.Request) {
		var init agentclient.Init
		if err := json.NewDecoder(r.Body).Decode(&init); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		b.mu.Lock()
		b.inits = append(b.inits, init)
		b.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		frozen := b.frozen
		b.mu.Unlock()
		if frozen != nil {
			select {
			case <-frozen:
			case <-r.Context().Done():
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

// listener accepts what is dialled.
type listener struct{ box *box }

func (l listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.box.conns:
		return c, nil
	case <-l.box.dead:
		return nil, net.ErrClosed
	}
}

func (l listener) Close() error   { return nil }
func (l listener) Addr() net.Addr { return &net.UnixAddr{Name: "fake", Net: "unix"} }
