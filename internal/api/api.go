// Package api is the control plane's REST surface, as spec/openapi.yaml
// describes it. It owns the route table, the strict reading of requests, the
// shape of replies and the mapping of errors; what the verbs mean is control's
// business. Only the composition root imports it.
package api

import (
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Options are what the API is made of.
type Options struct {
	// Control does the work.
	Control *control.Control
	// Logger gets internal errors; nil means silence.
	Logger *slog.Logger
	// Version is the server's own, told in the Server header; may be empty.
	Version string
}

// access says who may use a route.
type access int

const (
	public   access = iota // anyone
	needsKey               // who sends an API key
)

type handler func(*server, http.ResponseWriter, *http.Request) error

type route struct {
	method  string
	path    string
	access  access
	handler handler
}

// routes is what the server does; missingRoutes is what it says it does not.
var routes = []route{
	{http.MethodGet, "/health", public, (*server).health},

	{http.MethodPost, "/v2/sandboxes", needsKey, (*server).createSandboxV2},
	{http.MethodGet, "/v2/sandboxes", needsKey, (*server).listSandboxesV2},
	{http.MethodPost, "/sandboxes", needsKey, (*server).createSandbox},
	{http.MethodGet, "/sandboxes", needsKey, (*server).listSandboxes},
	{http.MethodGet, "/sandboxes/{sandboxID}", needsKey, (*server).getSandbox},
	{http.MethodDelete, "/sandboxes/{sandboxID}", needsKey, (*server).killSandbox},
	{http.MethodGet, "/sandboxes/{sandboxID}/metrics", needsKey, (*server).sandboxMetrics},
	{http.MethodGet, "/sandboxes/metrics", needsKey, (*server).metricsOfSandboxes},
	{http.MethodPost, "/sandboxes/{sandboxID}/timeout", needsKey, (*server).setTimeout},
	{http.MethodPost, "/sandboxes/{sandboxID}/refreshes", needsKey, (*server).refreshSandbox},
	{http.MethodPost, "/sandboxes/{sandboxID}/connect", needsKey, (*server).connectSandbox},
	{http.MethodPost, "/v2/sandboxes/{sandboxID}/connect", needsKey, (*server).connectSandboxV2},

	{http.MethodGet, "/templates", needsKey, (*server).listTemplates},
	{http.MethodPatch, "/v2/templates/{templateID}", needsKey, (*server).updateTemplate},
	{http.MethodGet, "/templates/aliases/{alias}", needsKey, (*server).templateByAlias},

	{http.MethodGet, "/api-keys", needsKey, (*server).listKeys},
	{http.MethodPost, "/api-keys", needsKey, (*server).createKey},
	{http.MethodDelete, "/api-keys/{apiKeyID}", needsKey, (*server).revokeKey},
}

type server struct {
	control *control.Control
	log     *slog.Logger
	name    string // of the Server header
}

// New returns the handler of the whole API. It sets no time limits on slow
// clients; the http.Server that hosts it does.
func New(opt Options) http.Handler {
	s := &server{control: opt.Control, log: opt.Logger, name: "sandlot"}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if opt.Version != "" {
		s.name += "/" + opt.Version
	}
	mux := http.NewServeMux()
	for path, methods := range byPath(slices.Concat(routes, missingRoutes)) {
		mux.Handle(path, s.wrap(methods.dispatch))
	}
	mux.Handle("/", s.wrap(func(_ *server, _ http.ResponseWriter, r *http.Request) error {
		return errNoRoute(r)
	}))
	return mux
}

// methods are the routes of one path.
type methods map[string]route

func byPath(routes []route) map[string]methods {
	paths := make(map[string]methods)
	for _, rt := range routes {
		if paths[rt.path] == nil {
			paths[rt.path] = make(methods)
		}
		paths[rt.path][rt.method] = rt
	}
	return paths
}

// dispatch finds the route by method, checks access and runs it.
func (m methods) dispatch(s *server, w http.ResponseWriter, r *http.Request) error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	rt, ok := m[method]
	if !ok {
		allow := strings.Join(slices.Sorted(maps.Keys(m)), ", ")
		w.Header().Set("Allow", allow)
		return methodError{method: r.Method, allow: allow}
	}
	if rt.access == needsKey {
		if err := s.authenticate(r); err != nil {
			return err
		}
	}
	return rt.handler(s, w, r)
}

// authenticate takes the API key from X-API-Key, or from Authorization as a
// bearer token.
func (s *server) authenticate(r *http.Request) error {
	key := r.Header.Get("X-Api-Key")
	if key == "" {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if strings.EqualFold(scheme, "Bearer") {
			key = strings.TrimSpace(token)
		}
	}
	if key == "" {
		return errs.New(errs.Unauthenticated, "the API key is missing: send it in the X-API-Key header; SDKs take it from E2B_API_KEY, which \"sandlot env\" prints")
	}
	_, err := s.control.Authenticate(key)
	return err
}

// wrap turns a handler into one of net/http: it answers errors and panics.
func (s *server) wrap(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", s.name)
		defer s.recoverPanic(w, r)
		if err := h(s, w, r); err != nil {
			s.writeError(w, r, err)
		}
	})
}

func (s *server) health(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}
