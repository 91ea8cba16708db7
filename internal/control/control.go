// Package control is the engine behind every surface: the verbs on sandboxes
// (create, get, list, kill, set timeout, refresh, connect), their time to live,
// the limit on their number, and the keys and tokens that open doors. It owns
// the registry: a copy in memory that answers at once, and the store's durable
// copy, written before anyone is told. It says what it needs of the host that
// runs sandboxes and of the templates; api, edge and dashboard call it, and only
// the composition root makes one.
//
// Lock order: entry.change, keyring.change, then Control.mu, keyring.mu, then
// history.mu; none of the latter three is held across a call to the host or the
// store.
package control

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store"
)

// Host runs sandboxes. It is safe for concurrent use.
type Host interface {
	// Launch returns a running sandbox made from the request's template. The host
	// chooses its ID, since it may come from a pool. On error, also when ctx is
	// cancelled, nothing is left behind.
	Launch(ctx context.Context, req LaunchRequest) (sandbox.ID, error)
	// Destroy ends a sandbox and frees everything it held. It is idempotent, and
	// an unknown ID is no error.
	Destroy(ctx context.Context, id sandbox.ID) error
	// Alive reports whether the sandbox runs.
	Alive(id sandbox.ID) bool
	// Launched returns the sandboxes alive that Launch has handed out, also in an
	// earlier life of the server; those still waiting in a pool are not among
	// them. Recover destroys the ones the registry does not know: the server died
	// between their launch and their row.
	Launched() []sandbox.ID
	// Stats returns what a running sandbox uses now, or errs.NotFound. It does
	// not wait for the sandbox.
	Stats(ctx context.Context, id sandbox.ID) (sandbox.Stats, error)
}

// LaunchRequest is what a sandbox is launched with. It lives in sandbox, so
// that a host needs not know who asks.
type LaunchRequest = sandbox.LaunchRequest

// Templates finds templates. It is safe for concurrent use.
type Templates interface {
	// Resolve returns the template that ref (an ID, alias, name:tag or team/name)
	// names, or an error of kind errs.NotFound.
	Resolve(ctx context.Context, ref string) (sandbox.Template, error)
	// List returns all templates.
	List(ctx context.Context) ([]sandbox.Template, error)
	// SetLimits changes the limits of a template's later sandboxes and returns
	// the template; zero fields stay as they are.
	SetLimits(ctx context.Context, ref string, l sandbox.Limits) (sandbox.Template, error)
}

// Store is the part of the registry control owns.
type Store interface {
	store.Sandboxes
	store.Keys
	store.Usages
}

// Sandbox is what the registry says about a sandbox. It is shared: do not
// change its maps and slices.
type Sandbox = store.Sandbox

// Options tune a Control. Every zero value has a meaning.
type Options struct {
	// MaxSandboxes bounds how many sandboxes there may be at once; 0 means 1000.
	MaxSandboxes int
	// MaxTimeout bounds how far away an end of life may be set; 0 means 30 days.
	MaxTimeout time.Duration
	// Domain is where host names of sandboxes live; empty when there is none.
	Domain string
	// EnvdVersion is the data plane's version clients are told; they choose what
	// to ask of it by this. Empty means 0.6.13.
	EnvdVersion string
	// AllowInsecure lets creates have a data plane without a token if they ask.
	AllowInsecure bool
	// Now tells the time; nil means time.Now.
	Now func() time.Time
	// Logger gets what nobody is returned; nil means silence.
	Logger *slog.Logger
}

func (o Options) orDefault() Options {
	if o.MaxSandboxes == 0 {
		o.MaxSandboxes = 1000
	}
	if o.MaxTimeout == 0 {
		o.MaxTimeout = 30 * 24 * time.Hour
	}
	if o.EnvdVersion == "" {
		o.EnvdVersion = "0.6.13"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// phase is where a Control is in its own life.
type phase int

const (
	starting phase = iota
	serving
	closed
)

// Control is the engine. Make it with New, start it with Recover, end it with
// Close. Its methods are safe for concurrent use.
type Control struct {
	host      Host
	templates Templates
	store     Store
	opt       Options
	keys      keyring

	work sync.WaitGroup // verbs under way, the owner goroutines and teardowns
	stop context.CancelFunc
	wake chan struct{} // capacity 1: the earliest deadline may have changed
	slot chan struct{} // bounds teardowns that run at once

	mu      sync.RWMutex
	phase   phase
	entries map[sandbox.ID]*entry
	pending int // creates that hold a place but have no entry yet
	due     deadlines
	usages  map[string]*usage
}

// entry is a sandbox in the registry.
type entry struct {
	id sandbox.ID
	// change serialises what writes or deletes the row.
	change sync.Mutex
	// history is what it used; only while the server runs.
	history history

	// Guarded by Control.mu.
	sandbox Sandbox
	reason  string // why it ended
	gone    bool   // torn down, row deleted, no longer in entries
	tries   int    // failed teardowns
	due     time.Time
	index   int // in Control.due; -1 when not in it
}

// New returns a Control that refuses every verb until Recover.
func New(h Host, t Templates, s Store, opt Options) *Control {
	return &Control{
		host: h, templates: t, store: s, opt: opt.orDefault(),
		keys:    keyring{byHash: make(map[[32]byte]*liveKey)},
		stop:    func() {},
		wake:    make(chan struct{}, 1),
		slot:    make(chan struct{}, maxTeardowns),
		entries: make(map[sandbox.ID]*entry),
		usages:  make(map[string]*usage),
	}
}

// Close refuses new verbs, waits for those under way and writes what is not
// written yet. Sandboxes go on running.
func (c *Control) Close() error {
	c.mu.Lock()
	c.phase = closed
	stop := c.stop
	c.mu.Unlock()
	stop()
	c.work.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return c.flush(ctx)
}

// enter begins a verb; the caller calls leave when err is nil.
func (c *Control) enter() (leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.phase {
	case starting:
		return nil, errs.New(errs.Unavailable, "the server is starting: try again in a moment")
	case closed:
		return nil, errs.New(errs.Unavailable, "the server is stopping: try again when it is back")
	case serving:
	}
	c.work.Add(1)
	return c.work.Done, nil
}

// now returns the time as the registry keeps it.
func (c *Control) now() time.Time { return c.opt.Now().UTC().Truncate(time.Millisecond) }

// Domain returns where host names of sandboxes live, empty if nowhere.
func (c *Control) Domain() string { return c.opt.Domain }

// EnvdVersion returns the data plane's version clients are told.
func (c *Control) EnvdVersion() string { return c.opt.EnvdVersion }
