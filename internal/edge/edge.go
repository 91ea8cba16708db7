// Package edge is the way into sandboxes: it finds out which sandbox and port a
// request means, by header, host name or file signature, checks that the
// caller may, and forwards it. It owns the connections to the agents and to
// ports inside, and bounds them. The daemon puts it in front of the REST
// interface on the same listener.
package edge

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"

	"github.com/sandlot-dev/sandlot/internal/agentclient"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// AgentPort is the port number that means the agent.
const AgentPort = sandbox.AgentPort

// Registry knows the sandboxes and their tokens (control.Control).
type Registry interface {
	Get(id sandbox.ID) (control.Sandbox, error)
	Authorize(id sandbox.ID, token string) error
	AuthorizeFile(id sandbox.ID, f control.FileSignature) error
	SandboxBySignature(f control.FileSignature) (control.Sandbox, error)
	CurrentMetric(ctx context.Context, id sandbox.ID) (control.Metric, error)
}

// Dialer reaches into sandboxes (node.Node).
type Dialer interface {
	DialAgent(ctx context.Context, id sandbox.ID) (net.Conn, error)
	DialPort(ctx context.Context, id sandbox.ID, port uint16) (net.Conn, error)
}

// Options are what an Edge needs and how it is tuned.
type Options struct {
	Registry Registry
	Dialer   Dialer
	// Logger gets what nobody is returned.
	Logger *slog.Logger
	// MaxConnections bounds what may be under way at once to the ports of one
	// sandbox, and as much again to its agent; 0 means 1024.
	MaxConnections int
	// MaxTotal bounds what may be under way at once to the ports of all sandboxes,
	// and as much again to their agents; each takes two descriptors. Half as many
	// idle connections to agents are kept. 0 means no bound.
	MaxTotal int
}

// Edge is an http.Handler for requests that mean a sandbox. It is safe for
// concurrent use.
type Edge struct {
	registry Registry
	dialer   Dialer
	logger   *slog.Logger
	proxy    *httputil.ReverseProxy
	agents   *agentclient.Forwarder
	load     load
	page     page
}

// New returns an Edge. End it with Close.
func New(opt Options) *Edge {
	e := &Edge{registry: opt.Registry, dialer: opt.Dialer, logger: opt.Logger, load: newLoad(opt.MaxConnections, opt.MaxTotal), page: newPage()}
	e.agents = agentclient.NewForwarder(func(ctx context.Context, id string) (net.Conn, error) {
		return e.dialer.DialAgent(ctx, sandbox.ID(id))
	})
	e.agents.LimitIdle(opt.MaxTotal / 2)
	e.proxy = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      e.portTransport(),
		ModifyResponse: answered,
		FlushInterval:  -1, // streams reach the client as they come
		BufferPool:     &buffers{},
		ErrorHandler:   e.proxyFailed,
		ErrorLog:       slog.NewLogLogger(opt.Logger.Handler(), slog.LevelDebug),
	}
	return e
}

// Close drops idle connections.
func (e *Edge) Close() { e.agents.Close() }

// call is a request that was let in.
type call struct {
	target
	sandbox control.Sandbox
	// signed says that a file's signature let it in, and no token.
	signed bool
	// ctx is the request's own: net/http dials with another, which goes on when
	// the request has ended.
	ctx context.Context
	// body is the client's, nil without one.
	body *requestBody
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// ServeHTTP routes, authorizes and forwards.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// An agent answers before it has read the whole request (a command's stream
	// starts with its first message), and errors should not wait for it either.
	// Without full duplex net/http reads the request's body at that moment or
	// closes it, under the proxy that is still sending it, and the stream breaks.
	// HTTP/2 always is duplex and says so by an error.
	_ = http.NewResponseController(w).EnableFullDuplex()
	r, body := holdBody(w, r)
	defer body.abandon() // when forwarding panics
	e.serve(w, r, body)
	body.end()
}

func (e *Edge) serve(w http.ResponseWriter, r *http.Request, body *requestBody) {
	t, err := e.target(r)
	var c *call
	if err == nil {
		c, err = e.authorize(r, t)
	}
	if err == nil {
		err = e.load.enter(t)
	}
	if err != nil {
		e.fail(w, r, t, err)
		return
	}
	defer e.load.leave(t)
	if t.port == AgentPort && r.URL.Path == metricsPath {
		e.metrics(w, r, t)
		return
	}
	c.body = body
	if c.port == AgentPort {
		e.toAgent(w, r, c)
	} else {
		e.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
	}
}

// load counts what is under way to each sandbox, so that nobody can fill one, or
// the server's table of descriptors through one. The agent's share is its own:
// an application with many visitors must not lock its owner out.
type load struct {
	limit, most int // of one sandbox, of all; 0 of all means no bound

	mu    sync.Mutex
	busy  map[loadKey]int
	total map[bool]int // by loadKey.agent
}

type loadKey struct {
	id    sandbox.ID
	agent bool
}

// defaultConnections is the bound when none is given.
const defaultConnections = 1024

func newLoad(limit, most int) load {
	if limit == 0 {
		limit = defaultConnections
	}
	return load{limit: limit, most: most, busy: make(map[loadKey]int), total: make(map[bool]int)}
}

// enter takes a place, or returns an error of kind errs.Exhausted.
func (l *load) enter(t target) error {
	key := loadKey{t.id, t.port == AgentPort}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.busy[key]
	if n >= l.limit {
		return errs.New(errs.Exhausted, "%d connections to this sandbox are open and no more are allowed", n).
			WithHint("close some and try again, or raise limits.connections in the server's configuration")
	}
	if l.most > 0 && l.total[key.agent] >= l.most {
		return errs.New(errs.Exhausted, "%d connections to sandboxes are open, which is as many as the server has descriptors for", l.most).
			WithHint("close some and try again, or raise the server's limit on open files")
	}
	l.busy[key] = n + 1
	l.total[key.agent]++
	return nil
}

// leave gives a place back.
func (l *load) leave(t target) {
	key := loadKey{t.id, t.port == AgentPort}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total[key.agent]--
	if l.busy[key]--; l.busy[key] == 0 {
		delete(l.busy, key)
	}
}
