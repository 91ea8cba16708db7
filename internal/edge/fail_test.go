package edge

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
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

const browserAccept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"

func TestWantsPage(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                   false,
		"*/*":                                false,
		browserAccept:                        true,
		"text/html":                          true,
		"TEXT/HTML ; Q=0.5":                  true,
		"text/*":                             true,
		"application/json":                   false,
		"application/json, text/html":        false,
		"application/json;q=0.9, text/html":  true,
		"text/html;q=0.5, application/*;q=1": false,
		"text/html;q=0":                      false,
		"text/html;q=NaN":                    false,
		"text/html;q=2":                      false,
		"*/*;q=0.9, text/html;q=0.1":         false,
		"application/connect+json":           false,
		",,;;=,text/html":                    true,
	} {
		if got := wantsPage([]string{accept}); got != want {
			t.Errorf("wantsPage(%q) = %v", accept, got)
		}
	}
	if !wantsPage([]string{"image/png", "text/html"}) {
		t.Error("the second of two headers was not read")
	}
}

type answer struct {
	StatusCode int
	Header     http.Header
}

// get asks for a sandbox's port as a program or a browser does.
func get(t *testing.T, s *httptest.Server, headers map[string]string) (answer, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header}, string(body)
}

func TestErrorForPrograms(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), echoPath("port"))
	res, body := get(t, s, map[string]string{idHeader: string(liveID), portHeader: "3000", "Accept": "*/*"})
	var got map[string]any
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if got["sandboxId"] != string(liveID) || got["port"] != 3000.0 || got["code"] != 502.0 || len(got) != 4 || res.StatusCode != 502 {
		t.Errorf("status %d, body %s", res.StatusCode, body)
	}
	if m, _ := got["message"].(string); !strings.Contains(m, "start a server on port 3000") {
		t.Errorf("message %q says nothing to do", m)
	}
	if h := res.Header; h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-store" || h.Get("Vary") != "Accept" {
		t.Errorf("headers %v", h)
	}
}

func TestErrorForPeople(t *testing.T) {
	s := start(t, control.Sandbox{TrafficToken: "pass"}, echoPath("agent"), echoPath("port"))
	for _, c := range []struct {
		id, port, traffic string
		status            int
		says              []string
	}{
		{string(liveID), "3000", "pass", 502, []string{"cannot be reached", "nothing listens on port 3000", "start a server on port 3000 inside the sandbox"}},
		{string(otherID), "3000", "", 502, []string{"cannot be reached", string(otherID), "not found"}},
		{"<script>alert(1)</script>", "3000", "", 502, []string{"not found"}},
		{string(liveID), "<script>alert(1)</script>", "", 400, []string{"&lt;script&gt;", "is no port"}},
		{string(liveID), "3000", "", 403, []string{"not open to you", "trafficAccessToken"}},
	} {
		res, body := get(t, s, map[string]string{idHeader: c.id, portHeader: c.port, trafficHeader: c.traffic, "Accept": browserAccept})
		if res.StatusCode != c.status || res.Header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%v: status %d, type %s", c, res.StatusCode, res.Header.Get("Content-Type"))
		}
		for _, want := range c.says {
			if !strings.Contains(body, want) {
				t.Errorf("%v: the page does not say %q:\n%s", c, want, body)
			}
		}
		if strings.Contains(body, "<script") {
			t.Errorf("%v: unescaped:\n%s", c, body)
		}
	}
}

// The page's style must be exactly what its policy allows, or it is not shown;
// and it must work without any other resource.
func TestPagePolicy(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), echoPath("port"))
	res, body := get(t, s, map[string]string{idHeader: string(liveID), portHeader: "3000", "Accept": browserAccept})
	_, rest, _ := strings.Cut(body, "<style>")
	style, _, ok := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	policy := res.Header.Get("Content-Security-Policy")
	if !ok || !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") || !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("policy %q does not fit the style %q", policy, style)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	for _, external := range []string{"src=", "href=", "url(", "@import"} {
		if strings.Contains(body, external) {
			t.Errorf("the page loads something: %s", external)
		}
	}
}

func TestPaused(t *testing.T) {
	s := start(t, control.Sandbox{State: sandbox.Paused}, echoPath("agent"), echoPath("port"))
	for _, port := range []string{"8080", "49983"} {
		a, body := get(t, s, map[string]string{idHeader: string(liveID), portHeader: port})
		if a.StatusCode != http.StatusBadGateway || !strings.Contains(body, "is paused: connect to it") {
			t.Errorf("port %s: %d %s", port, a.StatusCode, body)
		}
	}
}

// What stands behind a port may be anything; each says what to do.
func TestUnreachable(t *testing.T) {
	raw := func(answer string) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 64<<10))
				_, _ = io.WriteString(c, answer)
				_ = c.Close()
			}
		}()
		return ln.Addr().String()
	}
	ports := map[uint16]string{1: raw(""), 2: raw("SSH-2.0-x\r\n"), 3: raw("HTTP/1.1 200 OK\r\nContent-Le"), 443: raw("HTTP/1.1 400 Bad Request\r\n\r\n")}
	s := startWith(t, control.Sandbox{HTTPSPorts: []uint16{443}}, dialer{ports: ports}, 0)
	for port, want := range map[string]string{
		"1": "without an answer", "2": "does not speak HTTP", "3": "without an answer", "443": "does not speak TLS", "4": "nothing listens",
	} {
		res, body := get(t, s, map[string]string{idHeader: string(liveID), portHeader: port})
		if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, want) {
			t.Errorf("port %s: %d %s, want %q", port, res.StatusCode, body, want)
		}
	}
	late := unreachable(target{id: liveID, port: 9}, errors.Join(errDial, errs.New(errs.Timeout, "late")))
	if !errs.Is(late, errs.Unavailable) || !strings.Contains(errs.PublicMessage(late), "in time") {
		t.Errorf("a dial that timed out: %v", late)
	}
}

// slowDialer never gets a connection, and tells when it is no longer wanted.
type slowDialer struct {
	dialer
	dials, given chan struct{}
}

func (d slowDialer) DialPort(ctx context.Context, _ sandbox.ID, _ uint16) (net.Conn, error) {
	d.dials <- struct{}{}
	<-ctx.Done()
	d.given <- struct{}{}
	return nil, context.Cause(ctx)
}

// net/http goes on dialling for requests that have ended, in the hope of others.
// At a port there are none, and what piled up would be beyond every bound.
func TestDialsEndWithTheirRequests(t *testing.T) {
	d := slowDialer{dials: make(chan struct{}), given: make(chan struct{})}
	e := New(Options{Registry: registry{control.Sandbox{ID: liveID}}, Dialer: d, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(e.Close)
	s := httptest.NewServer(e)
	t.Cleanup(s.Close)
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		res, err := http.DefaultClient.Do(portRequest(t, http.MethodGet, s.URL, nil).WithContext(ctx))
		if err == nil {
			_ = res.Body.Close()
		}
		done <- err
	}()
	<-d.dials
	leave()
	select {
	case <-d.given:
	case <-time.After(20 * time.Second):
		t.Fatal("the dial goes on")
	}
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The bound on all sandboxes' connections leaves the agents their own share, and
// every place is given back.
func TestTotalLoad(t *testing.T) {
	l := newLoad(5, 2)
	port := func(id sandbox.ID) target { return target{id: id, port: 80} }
	for range 3 {
		for _, id := range []sandbox.ID{liveID, otherID} {
			if err := l.enter(port(id)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.enter(port(liveID)); !errs.Is(err, errs.Exhausted) {
			t.Errorf("one too many: %v", err)
		}
		if err := l.enter(target{id: liveID, port: AgentPort}); err != nil {
			t.Errorf("the agent's share: %v", err)
		}
		l.leave(port(liveID))
		l.leave(port(otherID))
		l.leave(target{id: liveID, port: AgentPort})
	}
	if len(l.busy) != 0 || l.total[true] != 0 || l.total[false] != 0 {
		t.Errorf("left over: %v, %v", l.busy, l.total)
	}
}

// The bound on connections is each sandbox's, and the agent's places are its own.
func TestTooManyConnections(t *testing.T) {
	const limit = 3
	inside, release := make(chan struct{}, limit), make(chan struct{})
	program := serve(t, func(w http.ResponseWriter, r *http.Request) {
		inside <- struct{}{}
		<-release
	})
	s := startWith(t, control.Sandbox{AccessToken: token}, dialer{agent: serve(t, echoPath("agent")), ports: map[uint16]string{8080: program}}, limit)
	port := map[string]string{idHeader: string(liveID), portHeader: "8080"}
	done := make(chan int, limit)
	for range limit {
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
			req.Header.Set(idHeader, string(liveID))
			req.Header.Set(portHeader, "8080")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				done <- 0
				return
			}
			_ = res.Body.Close()
			done <- res.StatusCode
		}()
		<-inside
	}
	res, body := get(t, s, port)
	if res.StatusCode != http.StatusTooManyRequests || !strings.Contains(body, "limits.connections") {
		t.Errorf("one too many: %d %s", res.StatusCode, body)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/envs", nil)
	req.Header.Set(idHeader, string(liveID))
	req.Header.Set(tokenHeader, token)
	check(t, req, 200, "agent")
	close(release)
	for range limit {
		if status := <-done; status != 200 {
			t.Errorf("a connection within the bound got %d", status)
		}
	}
	if res, _ := get(t, s, port); res.StatusCode != 200 {
		t.Errorf("after the others have ended: %d", res.StatusCode)
	}
}
