// Package edge is the way into sandboxes: it finds out which sandbox and port a
// request means, by header, host name or file signature, checks that the
// caller may, and forwards it. It owns the connections to the agents and to
// ports inside. The daemon puts it in front of the REST interface on the same
// listener.
package edge

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// AgentPort is the port number that means the agent.
const AgentPort = 49983

// interpreterPort is where the SDKs look for the code interpreter. They send it
// the sandbox's access token, which no other port is to see.
const interpreterPort = 49999

// Registry knows the sandboxes and their tokens (control.Control).
type Registry interface {
	Get(id sandbox.ID) (control.Sandbox, error)
	Authorize(id sandbox.ID, token string) error
	AuthorizeFile(id sandbox.ID, f control.FileSignature) error
	SandboxBySignature(f control.FileSignature) (control.Sandbox, error)
}

// Dialer reaches into sandboxes (node.Node).
type Dialer interface {
	DialAgent(ctx context.Context, id sandbox.ID) (net.Conn, error)
	DialPort(ctx context.Context, id sandbox.ID, port uint16) (net.Conn, error)
}

// Edge is an http.Handler for requests that mean a sandbox. It is safe for
// concurrent use.
type Edge struct {
	registry Registry
	dialer   Dialer
	logger   *slog.Logger
	proxy    *httputil.ReverseProxy
	agents   *http.Transport
	ports    *http.Transport
}

// New returns an Edge. End it with Close.
func New(r Registry, d Dialer, logger *slog.Logger) *Edge {
	e := &Edge{registry: r, dialer: d, logger: logger}
	e.agents = e.transport()
	// Users' servers close idle connections when they like. A request that meets
	// such an end cannot be sent again if it has a body, so each gets a new one.
	// DisableKeepAlives would announce that by "Connection: close", whereupon
	// servers that answer without reading the body reset the connection.
	e.ports = e.transport()
	e.ports.MaxIdleConnsPerHost = -1
	e.proxy = &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     roundTripper(e.roundTrip),
		FlushInterval: -1, // streams reach the client as they come
		BufferPool:    &buffers{},
		ErrorHandler:  e.proxyFailed,
		ErrorLog:      slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	return e
}

func (e *Edge) transport() *http.Transport {
	return &http.Transport{
		DialContext:         e.dial,
		DisableCompression:  true, // bodies pass as they are
		MaxIdleConnsPerHost: 32,
		IdleConnTimeout:     time.Minute,
		// An agent's or a program's headers are its own affair up to here.
		MaxResponseHeaderBytes: 1 << 20,
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (e *Edge) roundTrip(r *http.Request) (*http.Response, error) {
	if t, _ := r.Context().Value(targetKey{}).(target); t.port == AgentPort {
		return e.agents.RoundTrip(r)
	}
	return e.ports.RoundTrip(r)
}

// Close drops idle connections.
func (e *Edge) Close() { e.agents.CloseIdleConnections() }

// dial connects to the target that rewrite put into the URL's host.
func (e *Edge) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	if port == AgentPort {
		return e.dialer.DialAgent(ctx, sandbox.ID(host))
	}
	return e.dialer.DialPort(ctx, sandbox.ID(host), uint16(port))
}

type targetKey struct{}

// Handles reports whether a request means a sandbox rather than the API.
func Handles(r *http.Request) bool {
	if r.Header.Get("E2b-Sandbox-Id") != "" {
		return true
	}
	if _, ok := parseHost(r.Host); ok {
		return true
	}
	return r.URL.Path == "/files" && r.URL.Query().Get("signature") != ""
}

// ServeHTTP routes, authorizes and forwards.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t, err := e.target(r)
	if err == nil {
		err = e.authorize(r, t)
	}
	if err != nil {
		e.fail(w, t, err)
		return
	}
	// An agent answers before it has read the whole request (a command's stream
	// starts with its first message). Without full duplex net/http closes the
	// request's body at that moment, under the proxy that is still sending it,
	// and the stream breaks. HTTP/2 always is duplex and says so by an error.
	_ = http.NewResponseController(w).EnableFullDuplex()
	e.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), targetKey{}, t)))
	// Who answers without reading the body leaves it to be skipped. In full
	// duplex net/http must be made to do that before the handler returns: after
	// it, meeting the body's end starts a read beside that of the next request,
	// a panic which resets the client's connection.
	_ = r.Body.Close()
}

func rewrite(p *httputil.ProxyRequest) {
	t, _ := p.In.Context().Value(targetKey{}).(target)
	p.Out.URL.Scheme = "http"
	p.Out.URL.Host = net.JoinHostPort(string(t.id), strconv.Itoa(int(t.port)))
	p.Out.Host = p.In.Host
	p.Out.Header.Del("X-Api-Key") // the control plane's key is not for sandboxes
	if t.port == AgentPort {
		return
	}
	p.SetXForwarded()
	if t.port != interpreterPort {
		p.Out.Header.Del("X-Access-Token") // the agent's
	}
}

// proxyFailed answers when the sandbox could not be reached.
func (e *Edge) proxyFailed(w http.ResponseWriter, r *http.Request, err error) {
	t, _ := r.Context().Value(targetKey{}).(target)
	if r.Context().Err() != nil {
		return // the client went away
	}
	if _, gone := e.registry.Get(t.id); gone != nil {
		e.fail(w, t, gone)
		return
	}
	e.logger.Debug("sandbox not reached", "sandbox_id", t.id, "port", t.port, "error", err)
	if t.port == AgentPort {
		e.fail(w, t, errs.Wrap(err, errs.Unavailable, "the sandbox's agent does not answer"))
		return
	}
	e.fail(w, t, errs.Wrap(err, errs.Unavailable, "the sandbox runs, but nothing listens on port %d inside it", t.port))
}

// authorize checks the caller's right to the data plane. Ports are public, as
// E2B's are; the agent wants the sandbox's token, except for its health and
// for signed file URLs.
func (e *Edge) authorize(r *http.Request, t target) error {
	// CONNECT is the server's own word to the agent: it opens a tunnel to any
	// port inside. From outside nobody needs it.
	if r.Method == http.MethodConnect {
		return errs.New(errs.Forbidden, "CONNECT is not forwarded; send requests for a port with E2b-Sandbox-Port or by host name")
	}
	s, err := e.registry.Get(t.id)
	if err != nil {
		return err
	}
	if t.port != AgentPort {
		return allowTraffic(r, s)
	}
	if feature, ok := missingRoutes[r.URL.Path]; ok {
		return errs.New(errs.Unsupported, "%s: not available in this version of Sandlot", feature)
	}
	if !public(r.URL.Path) {
		return errs.New(errs.NotFound, "the agent has no route %s", r.URL.Path)
	}
	if r.URL.Path == "/health" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return nil
	}
	if f, ok := signature(r); ok {
		return e.registry.AuthorizeFile(t.id, f)
	}
	return e.registry.Authorize(t.id, r.Header.Get("X-Access-Token"))
}

func allowTraffic(r *http.Request, s control.Sandbox) error {
	given := []byte(r.Header.Get("E2b-Traffic-Access-Token"))
	if s.TrafficToken == "" || subtle.ConstantTimeCompare(given, []byte(s.TrafficToken)) == 1 {
		return nil
	}
	return errs.New(errs.Forbidden, "this sandbox is closed to public traffic: send its trafficAccessToken in the header e2b-traffic-access-token")
}

// missingRoutes are routes of E2B's agent that this one does not have. Not found
// would mean to clients that a file or a sandbox does not exist.
var missingRoutes = map[string]string{
	"/metrics": "metrics of sandboxes",
}

// public reports whether a route of the agent may be reached from outside. What
// the server itself tells the agent lies elsewhere.
func public(path string) bool {
	switch path {
	case "/health", "/files", "/files/compose", "/envs":
		return true
	}
	return strings.HasPrefix(path, "/process.Process/") || strings.HasPrefix(path, "/filesystem.Filesystem/")
}

// fail answers with an error. At the data plane a sandbox that is not there is
// a bad gateway: clients tell by it that the sandbox has ended.
func (e *Edge) fail(w http.ResponseWriter, t target, err error) {
	status := errs.KindOf(err).HTTPStatus()
	if status == http.StatusServiceUnavailable || errors.Is(err, errNoSandbox) || (t.id != "" && e.missing(t.id)) {
		status = http.StatusBadGateway
	}
	writeError(w, status, t, errs.PublicMessage(err))
}

func (e *Edge) missing(id sandbox.ID) bool {
	_, err := e.registry.Get(id)
	return err != nil
}

// buffers lends the proxy its copying buffers.
type buffers struct{ pool sync.Pool }

const bufferSize = 64 << 10

func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferSize)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
