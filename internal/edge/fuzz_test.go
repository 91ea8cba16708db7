package edge

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// FuzzParseHost: whatever is taken for a sandbox's name must mean the same when
// it is written down plainly.
func FuzzParseHost(f *testing.F) {
	for _, host := range []string{
		"8080-" + string(liveID) + ".localhost", "8080-" + string(liveID) + "-web.example.com:7280", "49983-" + string(liveID) + ".a",
		"1-" + strings.ToUpper(string(liveID)) + ".X.", "[::1]:80", "localhost", "-.", "0-" + string(liveID) + ".a", "65536-x.y", "+1-" + string(liveID) + ".z",
	} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		got, ok := parseHost(host)
		if !ok {
			if got != (target{}) {
				t.Errorf("refused, but returned %v", got)
			}
			return
		}
		if got.port == 0 || !got.id.Valid() {
			t.Fatalf("%q means %v", host, got)
		}
		plain := strconv.Itoa(int(got.port)) + "-" + string(got.id) + ".example.test"
		if again, ok := parseHost(plain); !ok || again != got {
			t.Errorf("%q means %v, but %q means %v", host, got, plain, again)
		}
	})
}

// FuzzSignature: what the edge checks must be what the agent will read.
func FuzzSignature(f *testing.F) {
	for _, query := range []string{
		"path=a&signature=v1_x", "path=a%20b&username=root&signature=v1_x&signature_expiration=5", "signature=&path=", "path=a;signature=b",
		"path=%zz&signature=x", "path=a&path=b&signature=c&signature=d", "%73ignature=x&path=y",
	} {
		f.Add(query, http.MethodGet)
	}
	f.Fuzz(func(t *testing.T, query, method string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: "/files", RawQuery: query}}
		sig, ok := signature(r)
		if !ok {
			return
		}
		q := r.URL.Query()
		if sig.Signature == "" || sig.Path != q.Get("path") || sig.User != q.Get("username") {
			t.Errorf("%q gives %+v", query, sig)
		}
		if (sig.Op == "read") != (method == http.MethodGet || method == http.MethodHead) {
			t.Errorf("%s is taken to %s", method, sig.Op)
		}
	})
}

// FuzzAccept: JSON unless HTML is wanted more, and never a panic.
func FuzzAccept(f *testing.F) {
	for _, accept := range []string{browserAccept, "*/*", "text/html;q=0.5, application/json", ";;,;q=,q=NaN", "text/html;q=1e999", "text/*;Q=.1"} {
		f.Add(accept)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		page, data := weights([]string{accept})
		if !(page >= 0 && page <= 1 && data >= 0 && data <= 1) {
			t.Errorf("%q weighs %v and %v", accept, page, data)
		}
		if got := wantsPage([]string{accept}); got && !strings.Contains(strings.ToLower(accept), "text/") {
			t.Errorf("%q wants a page", accept)
		}
	})
}

// FuzzPath: of the agent only its public routes are reached, and it reads the
// path that was checked.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/health", "/%68ealth", "/sandlot/init", "//sandlot/init", "/process.Process/Start", "/process.Process/%2e%2e/sandlot/init",
		"/process.Process/..%2f..%2fsandlot%2finit", "/files%2f..%2fsandlot/init", "/files/../sandlot/init", "*", "http:x", "http://h//sandlot/init",
	} {
		f.Add(path)
	}
	tap := &tap{}
	e := New(Options{Registry: registry{control.Sandbox{ID: liveID, Insecure: true}}, Dialer: tap, Logger: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		tap.sent.Reset()
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(nil))
		r.URL = u
		r.Header.Set(idHeader, string(liveID))
		r.Header.Set(tokenHeader, token)
		e.ServeHTTP(httptest.NewRecorder(), r)
		if tap.sent.Len() == 0 {
			return
		}
		text := tap.sent.String()
		all := bufio.NewReader(&tap.sent)
		reached, err := http.ReadRequest(all)
		if err != nil || all.Buffered() > 0 || !public(reached.URL.Path) || reached.URL.Path != u.Path {
			t.Errorf("%q reached the agent as %q (%v)", path, text, err)
		}
	})
}

// tap is a dialer to an agent that hears and never answers.
type tap struct {
	net.Conn // of which nothing else is called
	sent     bytes.Buffer
}

func (c *tap) DialAgent(context.Context, sandbox.ID) (net.Conn, error)        { return c, nil }
func (c *tap) DialPort(context.Context, sandbox.ID, uint16) (net.Conn, error) { return c, nil }
func (c *tap) Write(p []byte) (int, error)                                    { return c.sent.Write(p) }
func (c *tap) Read([]byte) (int, error)                                       { return 0, io.EOF }
func (c *tap) Close() error                                                   { return nil }
