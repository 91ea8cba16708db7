package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
)

// converse opens a connection and sends the beginning of a request.
func converse(t *testing.T, addr, begin string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, begin); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn), bufio.NewReader(conn)
}

// wantAnswer reads a whole reply.
func wantAnswer(t *testing.T, r *bufio.Reader, status int, says string) {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatalf("no reply: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != status || !strings.Contains(string(body), says) {
		t.Fatalf("%d %q, %v; want %d %q", res.StatusCode, body, err, status, says)
	}
}

// wantEnd fails if another reply comes: what follows a body whose end was not seen
// must not be taken for a request.
func wantEnd(t *testing.T, r *bufio.Reader) {
	t.Helper()
	if more, err := io.ReadAll(r); len(more) > 0 {
		t.Errorf("after the reply: %q, %v", more, err)
	}
}

// sandboxAddr is the address of an edge before one handler, which is agent and
// port.
func sandboxAddr(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	return start(t, control.Sandbox{AccessToken: token}, h, h).Listener.Addr().String()
}

const (
	toAgentHead = " HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\nX-Access-Token: " + token + "\r\n"
	toPortHead  = " HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\nE2b-Sandbox-Port: 8080\r\n"
	length      = "Content-Length: 10000000\r\n\r\n"
	chunked     = "Transfer-Encoding: chunked\r\n\r\n"
)

var ways = map[string]string{"agent": toAgentHead, "port": toPortHead}

// A sandbox that ends while a body is coming is no success, whether the client
// goes on sending or waits.
func TestSandboxEndsDuringTheBody(t *testing.T) {
	for way, head := range ways {
		for _, sending := range []bool{false, true} {
			t.Run(fmt.Sprint(way, " sending ", sending), func(t *testing.T) {
				t.Parallel()
				addr := sandboxAddr(t, func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.ReadFull(r.Body, make([]byte, 1000))
					panic(http.ErrAbortHandler)
				})
				conn, r := converse(t, addr, "POST /files"+head+length+strings.Repeat("x", 20_000))
				var sender sync.WaitGroup
				defer sender.Wait()
				if sending {
					sender.Go(func() {
						for range 100 { // ends with the connection
							if _, err := conn.Write(make([]byte, 1000)); err != nil {
								return
							}
							time.Sleep(time.Millisecond)
						}
					})
				}
				wantAnswer(t, r, http.StatusBadGateway, "sandbox")
			})
		}
	}
}

// What is wrong with a client's body is not the sandbox's fault, and neither 200.
func TestBrokenBodies(t *testing.T) {
	for way, head := range ways {
		for name, request := range map[string]string{
			"small":            "Content-Length: 100\r\n\r\nabc",
			"large":            length + strings.Repeat("x", 20_000),
			"chunks":           chunked + "5\r\nhello\r\n",
			"malformed chunks": chunked + "5\r\nhello\r\nzz\r\nGET /health" + head + "\r\n",
		} {
			t.Run(way+" "+name, func(t *testing.T) {
				t.Parallel()
				addr := sandboxAddr(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
				conn, r := converse(t, addr, "POST /files"+head+request)
				_ = conn.CloseWrite()
				wantAnswer(t, r, http.StatusBadRequest, "body ended early")
				wantEnd(t, r)
			})
		}
	}
}

// A client that has begun its body and waits is told of errors.
func TestErrorsReachWhoWaits(t *testing.T) {
	addr := sandboxAddr(t, echoPath("inside"))
	for name, c := range map[string]struct {
		head   string
		status int
	}{
		"no token":        {"POST /files HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\n", 401},
		"no sandbox":      {"POST /files HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: " + string(otherID) + "\r\n", 502},
		"no route":        {"POST /nothing" + toAgentHead, 404},
		"nothing listens": {"POST / HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\nE2b-Sandbox-Port: 9\r\n", 502},
	} {
		for _, body := range []string{"Content-Length: 100\r\n\r\nabc", length + "abc", chunked + "5\r\nhel"} {
			t.Run(name+" "+body[:12], func(t *testing.T) {
				t.Parallel()
				conn, r := converse(t, addr, c.head+body)
				wantAnswer(t, r, c.status, "message")
				_, _ = io.WriteString(conn, "GET /health"+toAgentHead+"\r\n") // where a body is due
				wantEnd(t, r)
			})
		}
	}
}

// After an error whose body did come, the connection serves the next request.
func TestErrorsKeepConnections(t *testing.T) {
	addr := sandboxAddr(t, echoPath("inside"))
	conn, r := converse(t, addr, "")
	for _, body := range []string{"Content-Length: 5\r\n\r\nhello", chunked + "5\r\nhello\r\n0\r\n\r\n"} {
		_, _ = io.WriteString(conn, "POST /nothing"+toAgentHead+body)
		wantAnswer(t, r, http.StatusNotFound, "no route")
		_, _ = io.WriteString(conn, "POST /files"+toAgentHead+body)
		wantAnswer(t, r, http.StatusOK, "inside /files")
	}
}

// A reply that ends before the request's body does ends for the client, too.
func TestEarlyReplyEnds(t *testing.T) {
	for way, head := range ways {
		for _, body := range []string{length + "abc", chunked + "5\r\nhel"} {
			t.Run(way+" "+body[:12], func(t *testing.T) {
				t.Parallel()
				addr := sandboxAddr(t, func(w http.ResponseWriter, _ *http.Request) {
					_ = http.NewResponseController(w).EnableFullDuplex()
					w.Header().Set("Connection", "close")
					_, _ = io.WriteString(w, "early ")
					w.(http.Flusher).Flush()
					_, _ = io.WriteString(w, "reply")
				})
				conn, r := converse(t, addr, "POST /files"+head+body)
				wantAnswer(t, r, http.StatusOK, "early reply")
				_, _ = io.WriteString(conn, "GET /health"+toAgentHead+"\r\n")
				wantEnd(t, r)
			})
		}
	}
}

// Who only knows a sandbox's id cannot keep a place at its agent.
func TestHealthTakesNoBody(t *testing.T) {
	t.Parallel()
	s := startWith(t, control.Sandbox{AccessToken: token}, dialer{agent: serve(t, echoPath("agent"))}, 1)
	addr := s.Listener.Addr().String()
	stranger := strings.Replace(toAgentHead, token, "", 1)
	for _, body := range []string{"Content-Length: 10\r\n\r\n", length, chunked} {
		_, r := converse(t, addr, "GET /health"+stranger+body)
		_, owner := converse(t, addr, "GET /envs"+toAgentHead+"\r\n")
		wantAnswer(t, owner, http.StatusOK, "agent /envs")
		wantAnswer(t, r, http.StatusBadRequest, "cannot have a body")
	}
	_, r := converse(t, addr, "GET /health"+stranger+"\r\n")
	wantAnswer(t, r, http.StatusOK, "agent /health")
	_, r = converse(t, addr, "GET /health"+toAgentHead+"Content-Length: 2\r\n\r\nab")
	wantAnswer(t, r, http.StatusOK, "agent /health")
}
