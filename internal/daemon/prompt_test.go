package daemon

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// TestPrompt talks to a handler over a connection in memory, with the bubble's
// clock.
func TestPrompt(t *testing.T) {
	for name, c := range map[string]struct {
		send string
		// after is when the client goes on, rest what it then sends.
		after time.Duration
		rest  string
		want  string
	}{
		"a body that does not come": {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", 2 * bodyTimeout, "hello", "broken"},
		"a body in time":            {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", bodyTimeout / 2, "hello", "hello"},
		"no body":                   {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				ln := &oneConn{conn: server, done: make(chan struct{})}
				srv := &http.Server{Handler: http.HandlerFunc(slowEcho)}
				served := make(chan error)
				go func() { served <- srv.Serve(ln) }()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					_, _ = io.WriteString(client, c.send)
					time.Sleep(c.after)
					_, _ = io.WriteString(client, c.rest)
				}()
				res, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				if string(body) != c.want || err != nil {
					t.Errorf("%q, %v", body, err)
				}
				_ = client.Close()
				<-sent
				close(ln.done)
				_ = srv.Close()
				<-served
			})
		})
	}
}

// slowEcho takes longer than any deadline between the body and the answer, as a
// create on a busy machine may.
func slowEcho(w http.ResponseWriter, r *http.Request) {
	w, r = prompt(w, r)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		fmt.Fprint(w, "broken")
		return
	}
	select {
	case <-time.After(2 * (bodyTimeout + answerTimeout)):
	case <-r.Context().Done():
		return
	}
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body)
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
