package edge

import (
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Headers by which callers show their right. Names are in canonical form.
const (
	keyHeader     = "X-Api-Key"
	tokenHeader   = "X-Access-Token"
	trafficHeader = "E2b-Traffic-Access-Token"
)

// authorize checks the caller's right to the data plane. Ports are public, as
// E2B's are, unless the sandbox has a traffic token; the agent wants the
// sandbox's token, except for its health and for signed file URLs.
func (e *Edge) authorize(r *http.Request, t target) (*call, error) {
	// CONNECT is the server's own word to the agent: it opens a tunnel to any
	// port inside. From outside nobody needs it.
	if r.Method == http.MethodConnect {
		return nil, errs.New(errs.Forbidden, "CONNECT is not forwarded; send requests for a port with E2b-Sandbox-Port or by host name")
	}
	if r.URL.Opaque != "" { // "GET a:b": a request line no server inside would understand
		return nil, errs.New(errs.Invalid, "the request's target is neither a path nor a URL with a host")
	}
	if r.Method == "" || strings.ContainsFunc(r.Method, notToken) || strings.ContainsFunc(r.URL.RawQuery, blank) {
		return nil, errs.New(errs.Invalid, "the request's method or query has a blank or another character it cannot have")
	}
	s, err := e.registry.Get(t.id)
	if err != nil {
		return nil, err
	}
	if s.State == sandbox.Paused {
		return nil, errs.New(errs.Unavailable, "the sandbox is paused").WithHint("connect to it, which resumes it")
	}
	c := &call{target: t, sandbox: s, ctx: r.Context()}
	if t.port != AgentPort {
		return c, allowTraffic(r, s)
	}
	return c, e.authorizeAgent(r, c)
}

func allowTraffic(r *http.Request, s control.Sandbox) error {
	if s.TrafficToken == "" || equal(r.Header.Get(trafficHeader), s.TrafficToken) {
		return nil
	}
	return errs.New(errs.Forbidden, "this sandbox is closed to public traffic").
		WithHint("send its trafficAccessToken, which create returned, in the header e2b-traffic-access-token")
}

func (e *Edge) authorizeAgent(r *http.Request, c *call) error {
	if !public(r.URL.Path) {
		return errs.New(errs.NotFound, "the agent has no route %s", r.URL.Path)
	}
	if r.URL.Path == "/health" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return e.authorizeHealth(r, c)
	}
	if f, ok := signature(r); ok {
		c.signed = true
		return e.registry.AuthorizeFile(c.id, f)
	}
	return e.registry.Authorize(c.id, r.Header.Get(tokenHeader))
}

// authorizeHealth lets everybody in who sends no body: one that never comes would
// keep a place at the agent, and many would lock its owner out.
func (e *Edge) authorizeHealth(r *http.Request, c *call) error {
	if r.ContentLength == 0 || e.registry.Authorize(c.id, r.Header.Get(tokenHeader)) == nil {
		return nil
	}
	return errs.New(errs.Invalid, "a request for /health without the sandbox's access token cannot have a body")
}

// equal compares secrets in constant time.
func equal(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// public reports whether a route of the agent may be reached from outside. What
// the server itself tells the agent lies elsewhere. A path is taken as it is
// spelt, decoded: what is not exactly a route, such as one with dots or double
// slashes, is none.
func public(path string) bool {
	switch path {
	case "/health", "/files", "/files/compose", "/envs", metricsPath:
		return true
	}
	method, ok := strings.CutPrefix(path, "/process.Process/")
	if !ok {
		method, ok = strings.CutPrefix(path, "/filesystem.Filesystem/")
	}
	return ok && method != "" && !strings.ContainsFunc(method, notLetter)
}

// notToken reports whether a character cannot be in a method, and blank whether
// one would end the target in a request line of HTTP/1.1; HTTP/2 can carry both.
func notToken(r rune) bool { return notLetter(r) && r != '-' && r != '_' && (r < '0' || r > '9') }

func blank(r rune) bool { return r <= ' ' || r == 0x7f }

func notLetter(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') }
