package agentclient_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/agentclient"
)

// forwarding is a server whose requests are forwarded to an agent.
type forwarding struct {
	*httptest.Server
	agent *http.Server
	// dials counts the connections to the agent.
	dials atomic.Int32
}

// forward starts an agent that answers with h, and a server before it.
func forward(t *testing.T, h http.HandlerFunc) *forwarding {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandlot") // short: a socket path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarding{agent: &http.Server{Handler: h}}
	served := make(chan struct{})
	go func() { defer close(served); _ = f.agent.Serve(ln) }()
	t.Cleanup(func() { _ = f.agent.Close(); <-served })
	f.serve(t, func(ctx context.Context, _ string) (net.Conn, error) {
		f.dials.Add(1)
		return new(net.Dialer).DialContext(ctx, "unix", ln.Addr().String())
	})
	return f
}

func (f *forwarding) serve(t *testing.T, dial func(context.Context, string) (net.Conn, error)) {
	t.Helper()
	fw := agentclient.NewForwarder(dial)
	t.Cleanup(fw.Close)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		if err := fw.Forward(w, r, "x", "X-Secret"); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
		_ = r.Body.Close()
	}))
	t.Cleanup(f.Server.Close)
	t.Cleanup(f.Server.CloseClientConnections)
}

func (f *forwarding) do(t *testing.T, method, path string, body io.Reader, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, f.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(text)
}

// Whatever the length and however it is told, bodies arrive as they were, over
// few connections.
func TestForwardBodies(t *testing.T) {
	f := forward(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength >= 0 && r.ContentLength != int64(len(body)) {
			t.Errorf("the agent got %d of %d bytes: %v", len(body), r.ContentLength, err)
		}
		if r.URL.Query().Has("known") {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(body)
	})
	for _, size := range []int{0, 1, 16 << 10, 16<<10 + 1, 100_000, 5 << 20} {
		body := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
		for _, query := range []string{"", "?known"} {
			for name, reader := range map[string]io.Reader{"length": bytes.NewReader(body), "chunks": io.MultiReader(bytes.NewReader(body))} {
				status, _, got := f.do(t, http.MethodPost, "/"+query, reader)
				if status != http.StatusAccepted || sha256.Sum256([]byte(got)) != sha256.Sum256(body) {
					t.Errorf("%d bytes (%s%s): %d and %d bytes", size, name, query, status, len(got))
				}
			}
		}
	}
	// A client that has all it was told of may ask again before its connection to
	// the agent is free.
	if n := f.dials.Load(); n > 6 {
		t.Errorf("%d connections to the agent for 24 requests", n)
	}
}

func TestForwardHeads(t *testing.T) {
	var seen *http.Request
	f := forward(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r
		w.Header()["X-Two"] = []string{"a", "b"}
		w.Header().Set("Connection", "X-Private")
		w.Header().Set("X-Private", "p")
		w.WriteHeader(http.StatusNoContent)
	})
	status, h, _ := f.do(t, http.MethodDelete, "/a%2Fb/c?q=%20;r", nil,
		"X-Secret", "s", "Connection", "X-Hop", "X-Hop", "h", "Te", "trailers", "X-Kept", "k", "Expect", "100-continue")
	if status != http.StatusNoContent || !cmp.Equal(h["X-Two"], []string{"a", "b"}) || h.Get("X-Private") != "" {
		t.Errorf("reply %d %v", status, h)
	}
	if seen.Method != http.MethodDelete || seen.URL.Path != "/a/b/c" || seen.URL.RawQuery != "q=%20;r" || seen.Host != strings.TrimPrefix(f.URL, "http://") {
		t.Errorf("request %s %s %s", seen.Method, seen.URL, seen.Host)
	}
	for name, want := range map[string]string{"X-Secret": "", "X-Hop": "", "Te": "", "Expect": "", "X-Kept": "k"} {
		if got := seen.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	if status, h, body := f.do(t, http.MethodHead, "/", nil); status != http.StatusNoContent || body != "" {
		t.Errorf("HEAD: %d %v %q", status, h, body)
	}
}

// Both directions of a stream move while the other is open.
func TestForwardStreams(t *testing.T) {
	f := forward(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.WriteString(w, "hello\n")
		w.(http.Flusher).Flush()
		buf := make([]byte, 5)
		for {
			if _, err := io.ReadFull(r.Body, buf); err != nil {
				return
			}
			_, _ = w.Write(buf)
			w.(http.Flusher).Flush()
		}
	})
	in, out := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, f.URL, in)
	res, err := f.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 6)
	if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != "hello\n" {
		t.Fatalf("%q, %v", buf, err)
	}
	for _, word := range []string{"one..", "two.."} {
		_, _ = io.WriteString(out, word)
		if _, err := io.ReadFull(res.Body, buf[:5]); err != nil || string(buf[:5]) != word {
			t.Fatalf("%q, %v", buf, err)
		}
	}
	_ = out.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// A body that breaks off must not look whole to the agent, nor a reply to the
// client.
func TestForwardBreaks(t *testing.T) {
	outcome := make(chan error, 1)
	f := forward(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			_, err := io.Copy(io.Discard, r.Body)
			outcome <- err
			return
		}
		if r.URL.Path == "/plain" {
			w.Header().Set("Content-Length", "100000")
		}
		_, _ = w.Write(make([]byte, 50_000))
		panic(http.ErrAbortHandler)
	})
	for _, length := range []int64{-1, 1 << 20} {
		in, out := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, f.URL, in)
		req.ContentLength = length
		go func() {
			_, _ = out.Write(make([]byte, 100_000))
			_ = out.CloseWithError(errors.New("changed my mind"))
		}()
		if res, err := f.Client().Do(req); err == nil {
			t.Errorf("length %d: status %d", length, res.StatusCode)
			_ = res.Body.Close()
		}
		if err := <-outcome; err == nil {
			t.Errorf("length %d: the agent took half a body for a whole one", length)
		}
	}
	for _, path := range []string{"/plain", "/chunks"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, f.URL+path, nil)
		res, err := f.Client().Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: the client took half a reply for a whole one", path)
		}
	}
}

func TestForwardTellsTheAgentWhenTheClientIsGone(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	f := forward(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, f.URL, strings.NewReader("x"))
	go func() { <-begun; cancel() }()
	if res, err := f.Client().Do(req); err == nil {
		_ = res.Body.Close()
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the agent goes on")
	}
}

// Who answers without reading a body is heard, though the client goes on sending.
func TestForwardAnswerBeforeTheBody(t *testing.T) {
	f := forward(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		http.Error(w, "no", http.StatusForbidden)
	})
	for range 3 {
		status, _, body := f.do(t, http.MethodPost, "/", bytes.NewReader(make([]byte, 100<<10)))
		if status != http.StatusForbidden || body != "no\n" {
			t.Errorf("%d %q", status, body)
		}
	}
}

func TestForwardSurvivesAnAgentsEnd(t *testing.T) {
	f := forward(t, func(http.ResponseWriter, *http.Request) {})
	for range 3 {
		if status, _, _ := f.do(t, http.MethodGet, "/", nil); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	// The watcher of the idle connection sees its end, if only a moment later.
	_ = f.agent.Close()
	for deadline := time.Now().Add(5 * time.Second); ; {
		status, _, body := f.do(t, http.MethodGet, "/", nil)
		if status == http.StatusBadGateway && strings.Contains(body, "connect") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d %s", status, body)
		}
	}
}

// An agent that closes a kept connection instead of answering is asked once more,
// if that can do no harm.
func TestForwardRepeats(t *testing.T) {
	var asked atomic.Int32
	var f *forwarding
	f = forward(t, func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/break" || r.URL.Path == "/stale" && f.dials.Load() == 1 {
			panic(http.ErrAbortHandler)
		}
	})
	for _, c := range []struct {
		method, path, body   string
		status, asked, dials int
	}{
		{http.MethodGet, "/", "", http.StatusOK, 1, 1},
		{http.MethodGet, "/stale", "", http.StatusOK, 3, 2},
		{http.MethodGet, "/break", "", http.StatusBadGateway, 5, 3},
		{http.MethodGet, "/", "", http.StatusOK, 6, 4},
		{http.MethodPost, "/break", "", http.StatusBadGateway, 7, 4}, // it may have done something
		{http.MethodGet, "/", "", http.StatusOK, 8, 5},
		{http.MethodGet, "/break", "body", http.StatusBadGateway, 9, 5}, // the body is gone
	} {
		status, _, _ := f.do(t, c.method, c.path, strings.NewReader(c.body))
		if a, d := int(asked.Load()), int(f.dials.Load()); status != c.status || a != c.asked || d != c.dials {
			t.Fatalf("%+v: status %d, asked %d times over %d connections", c, status, a, d)
		}
	}
}

// Agents are hostile.
func TestForwardRefusesNonsense(t *testing.T) {
	for name, reply := range map[string]string{
		"silence": "", "noise": "SSH-2.0-x\r\n", "an upgrade": "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"an endless header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n",
		"a split header":    "HTTP/1.1 200 OK\r\nX\rY: z\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := &forwarding{}
			f.serve(t, func(context.Context, string) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() {
					_, _ = theirs.Read(make([]byte, 4096))
					_, _ = io.WriteString(theirs, reply)
					_ = theirs.Close()
				}()
				return ours, nil
			})
			if status, _, body := f.do(t, http.MethodGet, "/", nil); status != http.StatusBadGateway {
				t.Errorf("%d %.100s", status, body)
			}
			// A client that sends nothing more hears of it, too.
			in, out := io.Pipe()
			defer out.Close()
			if status, _, body := f.do(t, http.MethodPost, "/", in); status != http.StatusBadGateway {
				t.Errorf("with a body that does not come: %d %.100s", status, body)
			}
		})
	}
}
