package edge

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
)

// In HTTP/2 a request's length is that of its frames, and net/http leaves a
// content-length that says otherwise in the header. Passed on to an agent's
// kept connection, it would make the agent take the beginning of the next
// request for a body, and what is in that one's body for a request: one that
// nobody has checked.
func TestLengthsOfHTTP2(t *testing.T) {
	var n witness
	e := New(Options{
		Registry: registry{control.Sandbox{ID: liveID, AccessToken: token}},
		Dialer:   dialer{agent: serve(t, n.note("agent"))}, Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(e.Close)
	ask := func(body string, headers ...string) {
		r := httptest.NewRequest(http.MethodGet, "/health", nil)
		if body != "" {
			r = httptest.NewRequest(http.MethodGet, "/health", strings.NewReader(body))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r = r.WithContext(ctx)
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
		r.Header.Set(idHeader, string(liveID))
		r.Header.Set(tokenHeader, token) // without it health takes no body
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		defer func() { _ = recover() }() // a broken connection is a way to refuse
		e.ServeHTTP(httptest.NewRecorder(), r)
	}
	const hidden = "POST /sandlot/init HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
	for swallowed := 1; swallowed < 300; swallowed++ {
		ask("", "Content-Length", strconv.Itoa(swallowed))
		ask(hidden)
	}
	ask("", "Host", "other", "Content-Length", "x")
	for _, got := range n.drain() {
		if got != "agent GET /health" {
			t.Fatalf("%s reached the agent", got)
		}
	}
}

// A method or a target with blanks, as HTTP/2 can carry, would be another request
// line in HTTP/1.1.
func TestRequestLinesOfHTTP2(t *testing.T) {
	var n witness
	e := New(Options{
		Registry: registry{control.Sandbox{ID: liveID, AccessToken: token}},
		Dialer:   dialer{agent: serve(t, n.note("agent"))}, Logger: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(e.Close)
	for _, c := range []struct{ method, query string }{
		{"POST /sandlot/init HTTP/1.1", ""}, {"POST /sandlot/init HTTP/1.1\r\nX:", ""}, {"", "a b"}, {http.MethodGet, " HTTP/1.1\r\nX: "},
	} {
		r := httptest.NewRequest(http.MethodGet, "/health", nil)
		r.Method, r.URL.RawQuery = c.method, c.query
		r.Header.Set(idHeader, string(liveID))
		r.Header.Set(tokenHeader, token)
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		if seen := n.drain(); len(seen) > 0 || w.Code != http.StatusBadRequest {
			t.Errorf("%q with query %q: %d, reached %q", c.method, c.query, w.Code, seen)
		}
	}
}
