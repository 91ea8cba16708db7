package agentclient_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sandlot-dev/sandlot/internal/agent"
	"github.com/sandlot-dev/sandlot/internal/agentclient"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// net/http lingers after it has closed a connection whose request was not read.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// listen returns a unix listener and a client that dials it.
func listen(t *testing.T) (net.Listener, *agentclient.Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandlot") // short: a socket path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	c := agentclient.New(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	})
	t.Cleanup(c.Close)
	return ln, c
}

// realAgent serves the agent itself.
func realAgent(t *testing.T) *agentclient.Client {
	t.Helper()
	ln, c := listen(t)
	serveAgent(t, ln, c)
	return c
}

func serveAgent(t *testing.T, ln net.Listener, c *agentclient.Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Serve(ctx, ln, agent.Options{}) }()
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// envs asks the agent for its variables.
func envs(t *testing.T, ln net.Listener) string {
	t.Helper()
	conn, err := net.Dial("unix", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /envs HTTP/1.1\r\nHost: any\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestInitAndPing(t *testing.T) {
	ln, c := listen(t)
	serveAgent(t, ln, c)
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Init(t.Context(), agentclient.Init{Env: map[string]string{"A": "1"}}); err != nil {
		t.Fatal(err)
	}
	if body := envs(t, ln); body != "{\"A\":\"1\"}\n" {
		t.Errorf("envs are %s", body)
	}
	err := c.Init(t.Context(), agentclient.Init{DefaultUser: "nobody-of-that-name"})
	if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "nobody-of-that-name") {
		t.Errorf("unknown default user: %v", err)
	}
}

func TestDialPort(t *testing.T) {
	c := realAgent(t)
	for _, network := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(network, func(t *testing.T) {
			server, err := net.Listen("tcp", network)
			if err != nil {
				t.Skipf("missing an address to listen on: %v", err)
			}
			defer server.Close()
			go greetAndEcho(server)
			conn, err := c.DialPort(t.Context(), uint16(server.Addr().(*net.TCPAddr).Port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write(bytes.Repeat([]byte("x"), 1<<20)); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil || string(got) != "hello\n1048576\n" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// greetAndEcho greets at once, reads to the end, and then says how much it was.
func greetAndEcho(server net.Listener) {
	conn, err := server.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "hello\n")
	n, _ := io.Copy(io.Discard, conn)
	_, _ = fmt.Fprintln(conn, n)
}

func TestDialPortRefused(t *testing.T) {
	c := realAgent(t)
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(server.Addr().(*net.TCPAddr).Port)
	_ = server.Close()
	_, err = c.DialPort(t.Context(), port)
	if !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("dial of a closed port: %v", err)
	}
}

// TestHostileAgent lets the agent answer with anything; the client must return
// soon, with an error of the right kind and nothing unprintable in it.
func TestHostileAgent(t *testing.T) {
	endless := strings.Repeat("X-Header: "+strings.Repeat("a", 1000)+"\r\n", 1000)
	replies := map[string]string{
		"nothing":        "",
		"garbage":        "\x00\x01\x02 hello\r\n\r\n",
		"endless header": "HTTP/1.1 200 OK\r\n" + endless,
		"no header end":  strings.Repeat("A", 1<<20),
		"bad status":     "HTTP/1.1 999999 OK\r\n\r\n",
		"other status":   "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n",
		"huge error":     "HTTP/1.1 502 Bad\r\nContent-Length: 9999999\r\n\r\n" + strings.Repeat("{", 1<<20),
		"escape codes":   "HTTP/1.1 502 Bad\r\nContent-Length: 36\r\n\r\n{\"message\":\"\\u001b[2J owned \\u0007\"}",
		"upgrade":        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
	}
	for name, reply := range replies {
		t.Run(name, func(t *testing.T) {
			ln, c := listen(t)
			go answerAll(ln, reply)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			for call, err := range map[string]error{
				"ping": c.Ping(ctx),
				"dial": second(c.DialPort(ctx, 80)),
			} {
				if err == nil {
					t.Errorf("%s: no error", call)
				} else if strings.ContainsAny(err.Error(), "\x1b\x07\x00") || len(err.Error()) > 4096 {
					t.Errorf("%s: error text %.200q", call, err)
				}
				if call == "ping" && !errs.Is(err, errs.Unavailable) {
					t.Errorf("ping: kind %v: %v", errs.KindOf(err), err)
				}
			}
			if ctx.Err() != nil {
				t.Error("the calls took too long")
			}
		})
	}
}

func second(_ net.Conn, err error) error { return err }

// answerAll answers every connection with the same bytes.
func answerAll(ln net.Listener, reply string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 4096)
		_, _ = conn.Read(buf)
		_, _ = io.WriteString(conn, reply)
		_ = conn.Close()
	}
}

func TestSilentAgent(t *testing.T) {
	ln, c := listen(t)
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.DialPort(ctx, 80)
	if !errs.Is(err, errs.Timeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial through a silent agent: %v", err)
	}
}

func TestAgentGone(t *testing.T) {
	ln, c := listen(t)
	_ = ln.Close()
	if err := c.Ping(t.Context()); !errs.Is(err, errs.Unavailable) {
		t.Errorf("ping: %v", err)
	}
	if _, err := c.DialPort(t.Context(), 1); !errs.Is(err, errs.Unavailable) {
		t.Errorf("dial: %v", err)
	}
}
