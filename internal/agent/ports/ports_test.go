package ports_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/agent/ports"
)

// tunnel opens one and returns its two ends, and a channel that is closed when
// the agent has done with it.
func tunnel(t *testing.T) (client *net.UnixConn, server *net.TCPConn, ended chan struct{}) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ports") // short: a socket path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	host, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tunnels := ports.New()
	ended = make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		tunnels.ServeHTTP(w, r)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(host) }()
	t.Cleanup(func() {
		_ = srv.Close()
		_ = inside.Close()
		tunnels.Close()
		<-served
	})
	conn, err := net.Dial("unix", host.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, port, _ := net.SplitHostPort(inside.Addr().String())
	_, _ = fmt.Fprintf(conn, "CONNECT localhost:%s HTTP/1.1\r\nHost: localhost:%[1]s\r\n\r\n", port)
	accepted, err := inside.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = accepted.Close() })
	_ = accepted.SetDeadline(time.Now().Add(20 * time.Second))
	const established = "HTTP/1.1 200 Connection established\r\n\r\n"
	reply := make([]byte, len(established))
	if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != established {
		t.Fatalf("reply %q, %v", reply, err)
	}
	return conn.(*net.UnixConn), accepted.(*net.TCPConn), ended
}

// A server that takes no notice of the end of its input must not keep the tunnel
// of a client that is gone.
func TestClientGone(t *testing.T) {
	for name, leave := range map[string]func(*net.UnixConn) error{
		"at once":             (*net.UnixConn).Close,
		"after the last word": func(c *net.UnixConn) error { return errors.Join(c.CloseWrite(), c.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			client, server, ended := tunnel(t)
			if err := leave(client); err != nil {
				t.Fatal(err)
			}
			if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Fatalf("the end of input is %v", err)
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Fatal("the tunnel stays open")
			}
		})
	}
}

// Ends of one direction pass, and the other goes on.
func TestHalfClose(t *testing.T) {
	for _, name := range []string{"client first", "server first"} {
		t.Run(name, func(t *testing.T) {
			client, server, _ := tunnel(t)
			var first, second interface {
				net.Conn
				CloseWrite() error
			} = client, server
			if name == "server first" {
				first, second = server, client
			}
			_, _ = io.WriteString(first, "question")
			_ = first.CloseWrite()
			if got, err := io.ReadAll(second); string(got) != "question" || err != nil {
				t.Fatalf("got %q, %v", got, err)
			}
			lines := bufio.NewReader(first)
			for i := range 3 {
				_, _ = fmt.Fprintln(second, i)
				if got, err := lines.ReadString('\n'); got != fmt.Sprintln(i) || err != nil {
					t.Fatalf("line %d: %q, %v", i, got, err)
				}
			}
			_ = second.CloseWrite()
			if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
				t.Errorf("after the end: %q, %v", rest, err)
			}
		})
	}
}
