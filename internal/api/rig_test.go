package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/api"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store"
	"github.com/sandlot-dev/sandlot/internal/store/memory"
)

// host launches sandboxes that are nothing but an ID.
type host struct {
	launch func(context.Context, control.LaunchRequest) (sandbox.ID, error)
	last   control.LaunchRequest
	stats  sandbox.Stats
}

func (h *host) Launch(ctx context.Context, req control.LaunchRequest) (sandbox.ID, error) {
	h.last = req
	if h.launch != nil {
		return h.launch(ctx, req)
	}
	return sandbox.NewID(), nil
}
func (*host) Destroy(context.Context, sandbox.ID) error { return nil }
func (*host) Alive(sandbox.ID) bool                     { return true }
func (*host) Launched() []sandbox.ID                    { return nil }
func (h *host) Stats(context.Context, sandbox.ID) (sandbox.Stats, error) {
	return h.stats, nil
}

type templates struct{}

var base = sandbox.Template{
	ID: "t0000000000000000000", BuildID: "b1", Aliases: []string{"base"}, Public: true,
	CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
}

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

// rig is an API with a Control behind it and a key for it.
type rig struct {
	handler http.Handler
	host    *host
	control *control.Control
	key     string
	log     *bytes.Buffer
	router  routers.Router // of the specification
}

func start(t testing.TB, opt control.Options) *rig {
	t.Helper()
	return startOn(t, opt, memory.New())
}

func startOn(t testing.TB, opt control.Options, s store.Store) *rig {
	t.Helper()
	r := &rig{host: &host{}, log: &bytes.Buffer{}, router: specification(t)}
	r.control = control.New(r.host, templates{}, s, opt)
	if err := r.control.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.control.Close() })
	_, key, err := r.control.CreateKey(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	r.key = key
	logger := slog.New(slog.NewTextHandler(r.log, nil))
	r.handler = api.New(api.Options{Control: r.control, Logger: logger, Version: "test"})
	return r
}

// loadDocument and loadSpecification read spec/openapi.yaml once.
var (
	loadDocument = sync.OnceValues(func() (*openapi3.T, error) {
		doc, err := openapi3.NewLoader().LoadFromFile("../../spec/openapi.yaml")
		if err != nil {
			return nil, err
		}
		return doc, doc.Validate(context.Background())
	})
	loadSpecification = sync.OnceValues(func() (routers.Router, error) {
		doc, err := loadDocument()
		if err != nil {
			return nil, err
		}
		return legacy.NewRouter(doc)
	})
)

func specification(t testing.TB) routers.Router {
	t.Helper()
	router, err := loadSpecification()
	if err != nil {
		t.Fatal(err)
	}
	return router
}

// do sends a request with the key of the rig and checks the reply against the
// specification. body is JSON text, or a value to encode, or nil.
func (r *rig) do(t testing.TB, method, target string, body any) *httptest.ResponseRecorder {
	t.Helper()
	req := r.request(t, method, target, body)
	req.Header.Set("X-API-KEY", r.key)
	return r.send(t, req)
}

func (r *rig) request(t testing.TB, method, target string, body any) *http.Request {
	t.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		in = bytes.NewReader(data)
	}
	req := httptest.NewRequestWithContext(t.Context(), method, target, in)
	req.Header.Set("Content-Type", "application/json")
	return req
}

func (r *rig) send(t testing.TB, req *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, req)
	r.checkReply(t, req, w)
	return w
}

// checkReply validates a reply to a documented endpoint, and every error.
func (r *rig) checkReply(t testing.TB, req *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code >= 400 {
		var e rest.Error
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code != w.Code || e.Message == "" {
			t.Errorf("%s %s: error body %q for status %d", req.Method, req.URL, w.Body, w.Code)
		}
	}
	route, params, err := r.router.FindRoute(req)
	if err != nil {
		return // not documented: a 404, a 405 or a missing feature
	}
	in := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route},
		Status:                 w.Code,
		Header:                 w.Header(),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	in.SetBodyBytes(w.Body.Bytes())
	if err := openapi3filter.ValidateResponse(t.Context(), in); err != nil {
		t.Errorf("%s %s: the reply is not what spec/openapi.yaml says: %v\n%s", req.Method, req.URL, err, w.Body)
	}
}

// as decodes a reply that must have the status.
func as[T any](t testing.TB, w *httptest.ResponseRecorder, status int) T {
	t.Helper()
	var v T
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("reply %q: %v", w.Body, err)
	}
	return v
}

func (r *rig) create(t testing.TB, body any) rest.Sandbox {
	t.Helper()
	return as[rest.Sandbox](t, r.do(t, http.MethodPost, "/v2/sandboxes", body), http.StatusCreated)
}
