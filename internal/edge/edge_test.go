package edge

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

const (
	liveID  = sandbox.ID("iaaaaaaaaaaaaaaaaaaa")
	otherID = sandbox.ID("ibbbbbbbbbbbbbbbbbbb")
	token   = "secret-token"
)

// registry knows one sandbox.
type registry struct{ row control.Sandbox }

func (r registry) Get(id sandbox.ID) (control.Sandbox, error) {
	if id != liveID {
		return control.Sandbox{}, errs.New(errs.NotFound, "sandbox %s was not found", id)
	}
	return r.row, nil
}

func (r registry) Authorize(id sandbox.ID, t string) error {
	if t != token {
		return errs.New(errs.Unauthenticated, "wrong token")
	}
	return nil
}

func (r registry) AuthorizeFile(_ sandbox.ID, f control.FileSignature) error {
	if f.Signature != "good" {
		return errs.New(errs.Unauthenticated, "wrong signature")
	}
	return nil
}

func (r registry) SandboxBySignature(f control.FileSignature) (control.Sandbox, error) {
	return r.row, r.AuthorizeFile(liveID, f)
}

func (r registry) CurrentMetric(_ context.Context, id sandbox.ID) (control.Metric, error) {
	_, err := r.Get(id)
	return metric, err
}

var metric = control.Metric{
	At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), CPUs: 2, CPUPercent: 12.5,
	MemoryUsed: 3<<20 + 1, MemoryCache: 1 << 20, MemoryTotal: 1 << 30, DiskUsed: 4096, DiskTotal: 10 << 30,
}

// dialer leads to test servers.
type dialer struct {
	agent string
	ports map[uint16]string
}

func (d dialer) DialAgent(ctx context.Context, _ sandbox.ID) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", d.agent)
}

func (d dialer) DialPort(ctx context.Context, _ sandbox.ID, port uint16) (net.Conn, error) {
	addr, ok := d.ports[port]
	if !ok {
		return nil, errs.New(errs.Unavailable, "nothing listens")
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func start(t *testing.T, row control.Sandbox, agent, port http.HandlerFunc) *httptest.Server {
	t.Helper()
	program := serve(t, port)
	return startWith(t, row, dialer{agent: serve(t, agent), ports: map[uint16]string{8080: program, interpreterPort: program}}, 0)
}

func startWith(t *testing.T, row control.Sandbox, d dialer, limit int) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(newEdge(t, row, d, limit))
	t.Cleanup(s.Close)
	return s
}

func newEdge(t *testing.T, row control.Sandbox, d dialer, limit int) *Edge {
	t.Helper()
	row.ID = liveID
	e := New(Options{Registry: registry{row}, Dialer: d, Logger: slog.New(slog.DiscardHandler), MaxConnections: limit})
	t.Cleanup(e.Close)
	return e
}

func echoPath(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, name+" "+r.URL.Path) }
}

func TestRoutes(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), echoPath("port"))
	for _, c := range []struct {
		name, path, host, id, port, token string
		status                            int
		body                              string
	}{
		{"agent by header", "/envs", "", string(liveID), "49983", token, 200, "agent /envs"},
		{"agent port is the default", "/envs", "", string(liveID), "", token, 200, "agent /envs"},
		{"agent by host", "/envs", "49983-" + string(liveID) + ".sandbox.test:7280", "", "", token, 200, "agent /envs"},
		{"no token", "/envs", "", string(liveID), "", "", 401, "wrong token"},
		{"health needs none", "/health", "", string(liveID), "", "", 200, "agent /health"},
		{"internal route", "/sandlot/init", "", string(liveID), "", token, 404, "no route"},
		{"internal route, spelt otherwise", "/files/../sandlot/init", "", string(liveID), "", token, 404, "no route"},
		{"metrics", "/metrics", "", string(liveID), "", token, 200, `{"ts":1767323045,"cpu_count":2,`},
		{"metrics need the token", "/metrics", "", string(liveID), "", "", 401, "wrong token"},
		{"metrics of a dead sandbox", "/metrics", "", string(otherID), "", token, 502, "not found"},
		{"joining files", "/files/compose", "", string(liveID), "", token, 200, "agent /files/compose"},
		{"joining files needs the token", "/files/compose?path=a&signature=good", "", string(liveID), "", "", 401, "wrong token"},
		{"metrics of a program", "/metrics", "", string(liveID), "8080", "", 200, "port /metrics"},
		{"port by header", "/x", "", string(liveID), "8080", "", 200, "port /x"},
		{"port by host", "/x", "8080-" + string(liveID) + "-web.localhost", "", "", "", 200, "port /x"},
		{"closed port", "/x", "", string(liveID), "81", "", 502, "nothing listens on port 81"},
		{"dead sandbox", "/health", "", string(otherID), "", "", 502, "not found"},
		{"dead sandbox's port", "/", "80-" + string(otherID) + ".localhost", "", "", "", 502, "not found"},
		{"malformed id", "/health", "", "../../etc", "", "", 502, "not found"},
		{"malformed port", "/health", "", string(liveID), "http", "", 400, "is no port"},
		{"signed file", "/files?path=a&signature=good", "", "", "", "", 200, "agent /files"},
		{"wrongly signed file", "/files?path=a&signature=bad", "", string(liveID), "", "", 401, "wrong signature"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+c.path, nil)
			req.Host = c.host
			for k, v := range map[string]string{"E2b-Sandbox-Id": c.id, "E2b-Sandbox-Port": c.port, "X-Access-Token": c.token} {
				if v != "" {
					req.Header.Set(k, v)
				}
			}
			check(t, req, c.status, c.body)
		})
	}
}

func check(t *testing.T, req *http.Request, status int, text string) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != status || !strings.Contains(string(body), text) {
		t.Errorf("got %d %q, want %d with %q", res.StatusCode, body, status, text)
	}
	if status < 400 {
		return
	}
	var e struct{ Code int }
	if err := json.Unmarshal(body, &e); err != nil || e.Code != status {
		t.Errorf("error body %q has no code %d", body, status)
	}
}

func TestHandles(t *testing.T) {
	for target, want := range map[string]bool{
		"http://127.0.0.1:7280/sandboxes":                          false,
		"http://localhost/health":                                  false,
		"http://8080-" + string(liveID) + ".localhost/":            true,
		"http://8080-" + string(liveID) + ".example.com:7280/":     true,
		"http://0-" + string(liveID) + ".localhost/":               false,
		"http://127.0.0.1/files?path=x":                            false,
		"http://127.0.0.1/files?path=x&signature=v1_x":             true,
		"http://65536-" + string(liveID) + ".localhost/":           false,
		"http://8080-" + strings.ToUpper(string(liveID)) + ".test": true,
	} {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		if got := Handles(r); got != want {
			t.Errorf("Handles(%s) = %v", target, got)
		}
	}
}

// The control plane's key is nothing a sandbox may see, and the agent's token
// nothing for its programs, except the code interpreter.
func TestKeysStayOutside(t *testing.T) {
	show := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "key="+r.Header.Get("X-Api-Key")+" token="+r.Header.Get("X-Access-Token")+".")
	}
	s := start(t, control.Sandbox{AccessToken: token}, show, show)
	for port, want := range map[string]string{"8080": "key= token=.", "49999": "key= token=" + token + ".", "49983": "key= token=" + token + "."} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/envs", nil)
		req.Header.Set("E2b-Sandbox-Id", string(liveID))
		req.Header.Set("E2b-Sandbox-Port", port)
		req.Header.Set("X-Api-Key", "e2b_secret")
		req.Header.Set("X-Access-Token", token)
		check(t, req, 200, want)
	}
}

// Users' servers close idle connections when they like; a body cannot be sent
// twice. The agent's connections are kept.
func TestConnectionsToPorts(t *testing.T) {
	show := func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }
	s := start(t, control.Sandbox{}, show, show)
	for port, want := range map[string]int{"8080": 5, "49983": 1} {
		seen := map[string]bool{}
		for range 5 {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/envs", strings.NewReader("body"))
			req.Header.Set("E2b-Sandbox-Id", string(liveID))
			req.Header.Set("E2b-Sandbox-Port", port)
			req.Header.Set("X-Access-Token", token)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			from, _ := io.ReadAll(res.Body)
			res.Body.Close()
			seen[string(from)] = true
		}
		if len(seen) != want {
			t.Errorf("port %s saw %d connections for 5 requests, want %d", port, len(seen), want)
		}
	}
}

func TestClosedTraffic(t *testing.T) {
	s := start(t, control.Sandbox{TrafficToken: "pass"}, echoPath("agent"), echoPath("port"))
	for given, status := range map[string]int{"": 403, "wrong": 403, "pass": 200} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/x", nil)
		req.Header.Set("E2b-Sandbox-Id", string(liveID))
		req.Header.Set("E2b-Sandbox-Port", "8080")
		if given != "" {
			req.Header.Set("E2b-Traffic-Access-Token", given)
		}
		check(t, req, status, "")
	}
}

// An agent streams its answer while the request's body is still under way; the
// stream must go on to its end.
func TestAnswerBeforeTheRequestEnds(t *testing.T) {
	s := start(t, control.Sandbox{}, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		io.WriteString(w, "start\n")
		w.(http.Flusher).Flush()
		rest, _ := io.ReadAll(r.Body)
		io.WriteString(w, string(rest)+"\n")
	}, echoPath("port"))
	for range 20 {
		r, w := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/process.Process/Start", r)
		req.Header.Set("E2b-Sandbox-Id", string(liveID))
		req.Header.Set("X-Access-Token", token)
		go io.WriteString(w, "one ")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(res.Body)
		first, _ := lines.ReadString('\n')
		time.Sleep(time.Millisecond)
		io.WriteString(w, "two")
		w.Close()
		last, err := lines.ReadString('\n')
		res.Body.Close()
		if first != "start\n" || last != "one two\n" || err != nil {
			t.Fatalf("got %q and %q (%v)", first, last, err)
		}
	}
}

// A server that answers without reading the request's body must not cost the
// client its connection.
func TestBodyNobodyReads(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), echoPath("port"))
	for i := range 300 {
		port := []string{"8080", "49983"}[i%2]
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/envs", strings.NewReader(strings.Repeat("x", 8<<10)))
		req.Header.Set("E2b-Sandbox-Id", string(liveID))
		req.Header.Set("E2b-Sandbox-Port", port)
		req.Header.Set("X-Access-Token", token)
		check(t, req, 200, "/envs")
	}
}

// CONNECT is what the server itself says to the agent, to open a tunnel to any
// port. From outside it must go nowhere, whatever it is dressed as.
func TestConnectStaysOutside(t *testing.T) {
	reached := make(chan string, 8)
	note := func(w http.ResponseWriter, r *http.Request) {
		reached <- r.Method + " " + r.Host + " " + r.URL.String()
	}
	s := start(t, control.Sandbox{}, note, note)
	for _, head := range []string{
		"CONNECT /health HTTP/1.1\r\nHost: 127.0.0.1:22\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\n",
		"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\nX-Access-Token: " + token + "\r\n",
		"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\nE2b-Sandbox-Port: 8080\r\n",
	} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, head+"Content-Length: 0\r\nConnection: close\r\n\r\n")
		answer, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(answer), "HTTP/1.1 403 ") {
			t.Errorf("%q was answered with %q", head, answer)
		}
	}
	select {
	case got := <-reached:
		t.Errorf("%s reached the sandbox", got)
	default:
	}
}
