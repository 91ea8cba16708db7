package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
)

// overHTTP2 starts an edge that speaks HTTP/2 and returns a client which finds it
// under every name.
func overHTTP2(t *testing.T, row control.Sandbox, d dialer) *http.Client {
	t.Helper()
	s := httptest.NewUnstartedServer(newEdge(t, row, d, 0))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	tr := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", s.Listener.Addr().String())
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestHTTP2(t *testing.T) {
	d := dialer{
		agent: serve(t, echoPath("agent")),
		ports: map[uint16]string{8080: serve(t, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("Connection", "X-Hop")
			w.Header().Set("X-Hop", "1")
			w.Header().Set("Keep-Alive", "timeout=5")
			w.Header().Set("X-Seen", r.Proto+" "+r.Host+" "+r.Header.Get("X-Forwarded-Proto"))
			w.(http.Flusher).Flush()
			_, _ = io.Copy(flushed{w}, r.Body)
		})},
	}
	client := overHTTP2(t, control.Sandbox{AccessToken: token}, d)
	host := "8080-" + string(liveID) + ".sandlot.test"
	body, send := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+host+"/x", body)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.Proto != "HTTP/2.0" || res.Header.Get("X-Seen") != "HTTP/1.1 "+host+" https" {
		t.Errorf("client's %s, program's %s", res.Proto, res.Header.Get("X-Seen"))
	}
	for _, name := range []string{"Connection", "X-Hop", "Keep-Alive", "Transfer-Encoding"} {
		if res.Header.Get(name) != "" {
			t.Errorf("the reply has %s, which concerns another connection", name)
		}
	}
	for range 3 { // the reply began before the request's end
		_, _ = io.WriteString(send, "ping")
		got := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != "ping" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	_ = send.Close()
	if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	closed, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://81-"+string(liveID)+".sandlot.test/", nil)
	checkWith(t, client, closed, 502, "nothing listens on port 81")
	agent, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://49983-"+string(liveID)+".sandlot.test/sandlot/init", nil)
	agent.Header.Set(tokenHeader, token)
	checkWith(t, client, agent, 404, "no route")
}

func checkWith(t *testing.T, c *http.Client, req *http.Request, status int, says string) {
	t.Helper()
	res, body := do(t, c, req)
	if res.StatusCode != status || !strings.Contains(body, says) {
		t.Errorf("%s: %d %s", req.URL, res.StatusCode, body)
	}
}

type flushed struct{ w http.ResponseWriter }

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.w.(http.Flusher).Flush()
	return n, err
}

// upgrade opens a WebSocket's connection by hand.
func upgrade(t *testing.T, addr, headers string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(conn, "GET /chat HTTP/1.1\r\n"+headers+"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n")
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil) //nolint:bodyclose // a 101 has none
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("Sec-Websocket-Accept") != "abc" {
		t.Fatalf("got %s %v", res.Status, res.Header)
	}
	return conn, r
}

func TestWebSocket(t *testing.T) {
	ended := make(chan struct{}, 1)
	s := start(t, control.Sandbox{}, echoPath("agent"), func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+r.Header.Get("Sec-WebSocket-Key")+"\r\n\r\nhello")
		if r.Host == "leave.test" {
			return
		}
		_, _ = io.Copy(conn, buf)
		ended <- struct{}{}
	})
	addr := s.Listener.Addr().String()
	byHeader := idHeader + ": " + string(liveID) + "\r\n" + portHeader + ": 8080\r\n"
	for name, headers := range map[string]string{
		"by header": "Host: localhost\r\n" + byHeader,
		"by host":   "Host: 8080-" + string(liveID) + ".localhost\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, r := upgrade(t, addr, headers)
			greeting := make([]byte, 5)
			if _, err := io.ReadFull(r, greeting); err != nil || string(greeting) != "hello" {
				t.Fatalf("greeting %q, %v", greeting, err)
			}
			sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
			got := make([]byte, len(sent))
			for range 4 { // both directions at once
				failed := make(chan error, 1)
				go func() { _, err := conn.Write(sent); failed <- err }()
				_, err := io.ReadFull(r, got)
				if err := errors.Join(err, <-failed); err != nil || !bytes.Equal(got, sent) {
					t.Fatalf("message of %d bytes: %v", len(sent), err)
				}
			}
			_ = conn.Close()
			<-ended // the program learns of it
		})
	}
	_, r := upgrade(t, addr, "Host: leave.test\r\n"+byHeader)
	if rest, err := io.ReadAll(r); string(rest) != "hello" || err != nil {
		t.Errorf("after the program has left: %q, %v", rest, err)
	}
}
