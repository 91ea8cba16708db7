// Package clienttest is a fake server for tests of what speaks to one: the
// control plane over a map, and a data plane whose "sandboxes" run commands as
// ordinary processes of the test, each in a directory of its own. It owns no
// isolation at all. Only tests import it.
package clienttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
	"github.com/sandlot-dev/sandlot/gen/rest"
)

// Key is the API key the fake accepts.
const Key = "e2b_0123456789abcdef0123456789abcdef01234567"

// Server is the fake. It is safe for concurrent use.
type Server struct {
	// URL is the base of both planes.
	URL string
	// Limit bounds the number of sandboxes; zero means no bound. Set it before use.
	Limit int
	// PageSize is the most sandboxes on a page of the list; zero means 100.
	PageSize int

	http  *httptest.Server
	conns sync.Map // remote addresses seen

	mu    sync.Mutex
	boxes map[string]*box
	keys  []rest.CreatedAPIKey
	next  int
	seen  []string
}

// box is one fake sandbox.
type box struct {
	detail rest.SandboxDetail
	token  string
	env    map[string]string
	dir    string
	procs  processes
}

// New starts a fake server that ends with the test.
func New(tb testing.TB) *Server {
	tb.Helper()
	s, stop := Start()
	tb.Cleanup(stop)
	return s
}

// Start starts a fake server for an example, which has no test; stop ends it.
func Start() (s *Server, stop func()) {
	s = &Server{boxes: map[string]*box{}}
	s.keys = []rest.CreatedAPIKey{s.newKey("first", Key)}
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	s.URL = s.http.URL
	return s, s.stop
}

func (s *Server) stop() {
	for _, id := range s.IDs() {
		s.Drop(id)
	}
	s.http.CloseClientConnections()
	s.http.Close()
}

// IDs returns the sandboxes that exist, sorted.
func (s *Server) IDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.boxes))
}

// Requests returns the method and path of every request so far.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// Connections returns how many connections were made so far.
func (s *Server) Connections() int {
	n := 0
	s.conns.Range(func(_, _ any) bool { n++; return true })
	return n
}

// Drop ends a sandbox as its time-to-live would: its processes die and its
// streams break off.
func (s *Server) Drop(id string) bool {
	s.mu.Lock()
	b := s.boxes[id]
	delete(s.boxes, id)
	s.mu.Unlock()
	if b == nil {
		return false
	}
	b.procs.killAll()
	_ = os.RemoveAll(b.dir)
	return true
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.conns.Store(r.RemoteAddr, true)
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	s.mu.Unlock()
	if id := r.Header.Get("E2b-Sandbox-Id"); id != "" {
		s.serveBox(w, r, id)
		return
	}
	if r.URL.Path != "/health" && r.Header.Get("X-API-Key") != Key {
		refuse(w, http.StatusUnauthorized, "missing or wrong API key; set E2B_API_KEY")
		return
	}
	s.routes().ServeHTTP(w, r)
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /v2/sandboxes", s.create)
	mux.HandleFunc("GET /v2/sandboxes", s.list)
	mux.HandleFunc("GET /sandboxes/{id}", s.withBox(func(w http.ResponseWriter, _ *http.Request, b *box) { reply(w, http.StatusOK, b.detail) }))
	mux.HandleFunc("DELETE /sandboxes/{id}", s.withBox(func(w http.ResponseWriter, _ *http.Request, b *box) {
		s.Drop(b.detail.SandboxID)
		w.WriteHeader(http.StatusNoContent)
	}))
	mux.HandleFunc("POST /sandboxes/{id}/timeout", s.withBox(s.setTimeout))
	mux.HandleFunc("POST /v2/sandboxes/{id}/connect", s.withBox(func(w http.ResponseWriter, _ *http.Request, b *box) { reply(w, http.StatusOK, b.wire()) }))
	mux.HandleFunc("GET /templates", listTemplates)
	mux.HandleFunc("GET /api-keys", s.listKeys)
	mux.HandleFunc("POST /api-keys", s.createKey)
	mux.HandleFunc("DELETE /api-keys/{id}", s.revokeKey)
	return mux
}

// serveBox serves the data plane of one sandbox.
func (s *Server) serveBox(w http.ResponseWriter, r *http.Request, id string) {
	s.mu.Lock()
	b := s.boxes[id]
	s.mu.Unlock()
	if b == nil {
		refuse(w, http.StatusBadGateway, "sandbox "+id+" does not run")
		return
	}
	if port := r.Header.Get("E2b-Sandbox-Port"); port != "49983" {
		_, _ = fmt.Fprintf(w, "port %s of %s: %s", port, id, r.URL.Path)
		return
	}
	if r.URL.Path == "/health" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if r.Header.Get("X-Access-Token") != b.token {
		refuse(w, http.StatusUnauthorized, "wrong access token")
		return
	}
	mux := http.NewServeMux()
	mux.Handle(processconnect.NewProcessHandler(&processService{box: b}))
	mux.Handle(filesystemconnect.NewFilesystemHandler(&fileService{box: b}))
	mux.HandleFunc("/files", b.serveFiles)
	mux.ServeHTTP(w, r)
}

func (b *box) wire() rest.Sandbox {
	return rest.Sandbox{
		SandboxID: b.detail.SandboxID, TemplateID: b.detail.TemplateID, ClientID: "local", EnvdVersion: "0.6.4",
		EnvdAccessToken: &b.token,
	}
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	var req rest.NewSandboxV2
	if !decode(w, r, &req) {
		return
	}
	if req.TemplateID != "base" {
		refuse(w, http.StatusNotFound, "template "+req.TemplateID+" does not exist")
		return
	}
	timeout := 300
	if req.Timeout != nil {
		timeout = *req.Timeout
	}
	dir, err := os.MkdirTemp("", "sandlot-fake-")
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	b, full := s.add(req, dir, time.Duration(timeout)*time.Second)
	if full {
		_ = os.RemoveAll(dir)
		refuse(w, http.StatusTooManyRequests, fmt.Sprintf("all %d sandboxes are in use; kill one or raise max_sandboxes", s.Limit))
		return
	}
	pool := "hit"
	if r.Header.Get("X-Sandlot-Pool") == "bypass" {
		pool = "bypass"
	}
	w.Header().Set("X-Sandlot-Pool", pool)
	reply(w, http.StatusCreated, b.wire())
}

func (s *Server) add(req rest.NewSandboxV2, dir string, ttl time.Duration) (b *box, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Limit > 0 && len(s.boxes) >= s.Limit {
		return nil, true
	}
	s.next++
	alias := "base"
	now := time.Date(2030, 1, 2, 3, 4, s.next, 0, time.UTC)
	b = &box{dir: dir, env: req.EnvVars, token: fmt.Sprintf("token-%d", s.next), detail: rest.SandboxDetail{
		SandboxID: fmt.Sprintf("i%019d", s.next), TemplateID: "base0000000000000000", Alias: &alias, ClientID: "local",
		EnvdVersion: "0.6.4", StartedAt: now, EndAt: now.Add(ttl), CPUCount: 2, MemoryMB: 1024, DiskSizeMB: 10240,
		State: rest.Running, Metadata: req.Metadata,
	}}
	s.boxes[b.detail.SandboxID] = b
	return b, false
}

func (s *Server) setTimeout(w http.ResponseWriter, r *http.Request, b *box) {
	var req rest.TimeoutRequest
	if !decode(w, r, &req) {
		return
	}
	s.mu.Lock()
	b.detail.EndAt = b.detail.StartedAt.Add(time.Duration(req.Timeout) * time.Second)
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// list answers with pages in the order of IDs, newest first.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	want := metadataFilter(r.URL.Query().Get("metadata"))
	page, start := s.PageSize, 0
	if page == 0 {
		page = 100
	}
	if token := r.URL.Query().Get("nextToken"); token != "" {
		start, _ = strconv.Atoi(token)
	}
	ids := s.IDs()
	slices.Reverse(ids)
	all := []rest.SandboxDetail{}
	for _, id := range ids {
		s.mu.Lock()
		detail := s.boxes[id].detail
		s.mu.Unlock()
		if contains(detail.Metadata, want) {
			all = append(all, detail)
		}
	}
	end := min(start+page, len(all))
	if end < len(all) {
		w.Header().Set("X-Next-Token", strconv.Itoa(end))
	}
	reply(w, http.StatusOK, all[start:end])
}

// metadataFilter undoes both layers of escaping.
func metadataFilter(text string) map[string]string {
	outer, _ := url.ParseQuery(text)
	want := map[string]string{}
	for k := range outer {
		key, _ := url.QueryUnescape(k)
		value, _ := url.QueryUnescape(outer.Get(k))
		want[key] = value
	}
	return want
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (s *Server) withBox(do func(http.ResponseWriter, *http.Request, *box)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		b := s.boxes[r.PathValue("id")]
		s.mu.Unlock()
		if b == nil {
			refuse(w, http.StatusNotFound, "sandbox "+r.PathValue("id")+" does not exist")
			return
		}
		do(w, r, b)
	}
}

func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, "cannot understand the request: "+err.Error())
		return false
	}
	return true
}

func refuse(w http.ResponseWriter, code int, message string) {
	reply(w, code, rest.Error{Code: code, Message: message})
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func listTemplates(w http.ResponseWriter, _ *http.Request) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	reply(w, http.StatusOK, []rest.Template{{
		TemplateID: "base0000000000000000", BuildID: "b1", BuildStatus: rest.TemplateBuildStatusReady, Aliases: []string{"base"},
		Names: []string{"base"}, CPUCount: 2, MemoryMB: 1024, DiskSizeMB: 10240, EnvdVersion: "0.6.4", CreatedAt: at, UpdatedAt: at,
	}})
}

func (s *Server) newKey(name, text string) rest.CreatedAPIKey {
	s.next++
	value := strings.TrimPrefix(text, "e2b_")
	return rest.CreatedAPIKey{
		ID: fmt.Sprintf("key%d", s.next), Name: name, Key: text, CreatedAt: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
		Mask: rest.KeyMask{Prefix: "e2b_", ValueLength: len(value), MaskedValuePrefix: value[:2], MaskedValueSuffix: value[len(value)-4:]},
	}
}

func (s *Server) listKeys(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	masked := []rest.APIKey{}
	for _, k := range s.keys {
		masked = append(masked, rest.APIKey{ID: k.ID, Name: k.Name, Mask: k.Mask, CreatedAt: k.CreatedAt})
	}
	reply(w, http.StatusOK, masked)
}

func (s *Server) createKey(w http.ResponseWriter, r *http.Request) {
	var req rest.NewAPIKey
	if !decode(w, r, &req) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.newKey(req.Name, fmt.Sprintf("e2b_%040x", s.next))
	s.keys = append(s.keys, key)
	reply(w, http.StatusCreated, key)
}

func (s *Server) revokeKey(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.keys, func(k rest.CreatedAPIKey) bool { return k.ID == r.PathValue("id") })
	switch {
	case i < 0:
		refuse(w, http.StatusNotFound, "there is no key "+r.PathValue("id"))
	case len(s.keys) == 1:
		refuse(w, http.StatusConflict, "the last key cannot be revoked; create another first")
	default:
		s.keys = slices.Delete(s.keys, i, i+1)
		w.WriteHeader(http.StatusNoContent)
	}
}
