package edge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
)

// portRequest asks for a program inside.
func portRequest(t testing.TB, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(idHeader, string(liveID))
	req.Header.Set(portHeader, "8080")
	return req
}

func do(t testing.TB, c *http.Client, req *http.Request) (answer, string) {
	t.Helper()
	res, err := c.Do(req)
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

// unbounded hides a body's length, so that it goes in chunks.
func unbounded(s string) io.Reader { return iotest.OneByteReader(strings.NewReader(s)) }

// Whatever HTTP/1.1 has must arrive on the other side as it was meant.
func TestHTTP(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.RequestURI, " ", r.TransferEncoding, " ", len(r.Header.Get("X-Large")), " ", r.Trailer.Get("X-Last")))
		w.Header().Set("X-Large", strings.Repeat("y", 100<<10))
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", fmt.Sprint(len(body)))
	})
	req := portRequest(t, "PROPFIND", s.URL+"/a%2Fb//c/../d;x?q=1;2&r=100%&s", unbounded("hello"))
	req.Header.Set("X-Large", strings.Repeat("x", 12<<10))
	req.Trailer = http.Header{"X-Last": {"end"}}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusTeapot || string(body) != "hello" || res.Trailer.Get("X-Sum") != "5" || len(res.Header.Get("X-Large")) != 100<<10 {
		t.Errorf("status %d, body %q, trailer %v", res.StatusCode, body, res.Trailer)
	}
	if got, want := res.Header.Get("X-Seen"), "PROPFIND /a%2Fb//c/../d;x?q=1;2&r=100%&s [chunked] 12288 end"; got != want {
		t.Errorf("the program saw %q, want %q", got, want)
	}
}

func TestHead(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "12345")
	})
	res, body := do(t, http.DefaultClient, portRequest(t, http.MethodHead, s.URL, nil))
	if res.Header.Get("Content-Length") != "12345" || body != "" {
		t.Errorf("length %q, body %q", res.Header.Get("Content-Length"), body)
	}
	req := portRequest(t, http.MethodHead, s.URL, nil)
	req.Header.Set(portHeader, "81")
	if res, body := do(t, http.DefaultClient, req); res.StatusCode != http.StatusBadGateway || body != "" {
		t.Errorf("a closed port answered HEAD with %d %q", res.StatusCode, body)
	}
}

func TestInformationalReplies(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	var hints atomic.Int32
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		if code == http.StatusEarlyHints && h.Get("Link") != "" {
			hints.Add(1)
		}
		return nil
	}})
	res, _ := do(t, http.DefaultClient, portRequest(t, http.MethodGet, s.URL, nil).WithContext(ctx))
	if hints.Load() != 1 || res.StatusCode != http.StatusOK {
		t.Errorf("%d early hints, then %d", hints.Load(), res.StatusCode)
	}
}

// A client that asks first must not be told to send what the program refuses.
func TestExpectContinue(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	t.Cleanup(client.CloseIdleConnections)
	for path, want := range map[string]struct {
		status int
		sent   bool
	}{"/refuse": {403, false}, "/take": {200, true}} {
		body := &countingReader{r: strings.NewReader(strings.Repeat("x", 1<<20))}
		req := portRequest(t, http.MethodPut, s.URL+path, body)
		req.ContentLength = 1 << 20
		req.Header.Set("Expect", "100-continue")
		res, _ := do(t, client, req)
		if res.StatusCode != want.status || (body.n.Load() > 0) != want.sent {
			t.Errorf("%s: status %d, %d bytes sent", path, res.StatusCode, body.n.Load())
		}
	}
}

type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// An event must be with the client before the next one is made.
func TestServerSentEvents(t *testing.T) {
	next := make(chan struct{})
	s := start(t, control.Sandbox{}, echoPath("agent"), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
	})
	res, err := http.DefaultClient.Do(portRequest(t, http.MethodGet, s.URL, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for i := range 5 {
		line, err := lines.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("event %d: %q, %v", i, line, err)
		}
		_, _ = lines.ReadString('\n')
		next <- struct{}{}
	}
}

// A reply that breaks off must not look complete.
func TestServerThatBreaksOff(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "1000")
		}
		_, _ = io.WriteString(w, "partial")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	for _, path := range []string{"/length", "/chunked"} {
		res, err := http.DefaultClient.Do(portRequest(t, http.MethodGet, s.URL+path, nil))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) != "partial" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %q, %v", path, body, err)
		}
	}
}

// A large body must pass in both directions without being kept.
func TestLargeBodies(t *testing.T) {
	const size = 128 << 20
	s := start(t, control.Sandbox{}, echoPath("agent"), func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	var before, peak runtime.MemStats
	runtime.ReadMemStats(&before)
	req := portRequest(t, http.MethodPut, s.URL, io.LimitReader(zeros{}, size))
	req.ContentLength = size
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	n, err := io.CopyN(io.Discard, res.Body, size/2)
	runtime.ReadMemStats(&peak)
	rest, err2 := io.Copy(io.Discard, res.Body)
	if n+rest != size || err != nil || err2 != nil {
		t.Errorf("%d of %d bytes came back: %v, %v", n+rest, size, err, err2)
	}
	if grown := int64(peak.HeapInuse) - int64(before.HeapInuse); grown > 16<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// The program sees the Host header its creator chose, or TLS, or its own.
func TestHostsAndTLS(t *testing.T) {
	show := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %v %s %s.", r.Host, r.TLS != nil, r.Header.Get("X-Forwarded-Host"), r.Header.Get("X-Forwarded-Proto"))
	})
	plain, secure := httptest.NewServer(show), httptest.NewTLSServer(show)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	d := dialer{ports: map[uint16]string{8080: plain.Listener.Addr().String(), 8443: secure.Listener.Addr().String()}}
	for _, c := range []struct{ mask, port, want string }{
		{"", "8080", "8080-" + string(liveID) + ".test false 8080-" + string(liveID) + ".test http."},
		{"localhost:${PORT}", "8080", "localhost:8080 false 8080-" + string(liveID) + ".test http."},
		{"${PORT}.app.test", "8443", "8443.app.test true 8443-" + string(liveID) + ".test http."},
		{"", "8443", "8443-" + string(liveID) + ".test true 8443-" + string(liveID) + ".test http."},
	} {
		s := startWith(t, control.Sandbox{MaskHost: c.mask, HTTPSPorts: []uint16{443, 8443}}, d, 0)
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		req.Host = c.port + "-" + string(liveID) + ".test"
		check(t, req, 200, c.want)
	}
}
