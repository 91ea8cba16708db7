package ports_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/test/harness"
)

// upgrade opens a connection that is not HTTP any more.
func upgrade(t *testing.T, s *harness.Server, headers string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn := open(t, s)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\n"+headers+"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil) //nolint:bodyclose // a 101 has none
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", res, err)
	}
	return conn, r
}

func open(t *testing.T, s *harness.Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

func address(s *harness.Server) string { return strings.TrimPrefix(s.URL, "http://") }

// status reads a number of a process's status file, in KiB for memory.
func status(t *testing.T, pid int, field string) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	t.Fatalf("no %s in %s", field, text)
	return 0
}

func peak(t *testing.T, pid int) int { t.Helper(); return status(t, pid, "VmHWM") }

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// flood calls visit n times, 64 at once, with a connection from one of many
// addresses, so that no port runs out.
func flood(s *harness.Server, n int, visit func(net.Conn, int) error) error {
	var g errgroup.Group
	g.SetLimit(64)
	for i := range n {
		g.Go(func() error {
			from := net.IPv4(127, 1, byte(i/200%250), byte(1+i%200))
			conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 30 * time.Second}).Dial("tcp", address(s))
			if err != nil {
				return err
			}
			if i%2 == 0 { // half of them end in order, half are cut
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			return errors.Join(visit(conn, i), conn.Close())
		})
	}
	return g.Wait()
}

func connections() int {
	if n, err := strconv.Atoi(os.Getenv("SANDLOT_TEST_CONNECTIONS")); err == nil {
		return n
	}
	return 20_000
}

// Very many connections that open and close, at the server and at a port inside,
// leave both as they were.
func TestFlood(t *testing.T) {
	s := harness.Start(t, harness.Options{})
	b := create(t, s, "/v2/sandboxes", `{"templateID":"base","timeout":3600}`)
	b.write(t, "/tmp/small.js", []byte(`require('http').createServer((q, s) => s.end('ok')).listen({ port: 8000, host: '127.0.0.1', backlog: 4096 })`))
	if _, err := b.Commands.Start(t.Context(), "exec node /tmp/small.js"); err != nil {
		t.Fatal(err)
	}
	b.run(t, "for i in $(seq 400); do (: </dev/tcp/127.0.0.1/8000) 2>/dev/null && exit; sleep 0.05; done; exit 1")
	request := "GET / HTTP/1.1\r\nHost: 8000-" + b.ID + ".localhost\r\nConnection: close\r\n\r\n"
	n := connections()
	kinds := []struct {
		name  string
		count int
		visit func(net.Conn, int) error
	}{
		{"open and close", n, func(net.Conn, int) error { return nil }},
		{"half a request", n / 4, func(c net.Conn, i int) error { _, err := io.WriteString(c, request[:1+i%(len(request)-4)]); return err }},
		{"a request nobody waits for", n / 4, func(c net.Conn, _ int) error { _, err := io.WriteString(c, request); return err }},
		{"a request", n / 4, func(c net.Conn, _ int) error {
			if _, err := io.WriteString(c, request); err != nil {
				return err
			}
			text, err := io.ReadAll(c)
			if err == nil && !strings.HasPrefix(string(text), "HTTP/1.1 200") && !strings.HasPrefix(string(text), "HTTP/1.1 429") {
				err = fmt.Errorf("answer %.100q", text)
			}
			return err
		}},
	}
	if err := flood(s, 500, kinds[3].visit); err != nil { // what a server in use has open and allocated
		t.Fatal(err)
	}
	fds, rss := descriptors(t, s.PID()), status(t, s.PID(), "VmRSS")
	agentFDs, agentRSS := b.number(t, "ls /proc/1/fd | wc -l"), b.number(t, "awk '/VmRSS/{print $2}' /proc/1/status")
	for _, kind := range kinds {
		began := time.Now()
		if err := flood(s, kind.count, kind.visit); err != nil {
			t.Errorf("%s: %v", kind.name, err)
		}
		t.Logf("%d × %s: %.0f/s", kind.count, kind.name, float64(kind.count)/time.Since(began).Seconds())
	}
	await(t, "descriptors of the server", func() bool { return descriptors(t, s.PID()) <= fds+64 })
	await(t, "descriptors of the agent", func() bool { return b.number(t, "ls /proc/1/fd | wc -l") <= agentFDs+16 })
	nowRSS, nowAgent := status(t, s.PID(), "VmRSS"), b.number(t, "awk '/VmRSS/{print $2}' /proc/1/status")
	t.Logf("server: %d → %d descriptors, %d → %d KiB (peak %d); agent: %d → %d KiB", fds, descriptors(t, s.PID()), rss, nowRSS, peak(t, s.PID()), agentRSS, nowAgent)
	if nowRSS-rss > 64<<10 || nowAgent-agentRSS > 16<<10 {
		t.Errorf("memory stayed: server +%d KiB, agent +%d KiB", nowRSS-rss, nowAgent-agentRSS)
	}
	if a := b.get(t, 8000, "/"); a.status != http.StatusOK {
		t.Errorf("afterwards: %d %s", a.status, a.body)
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// Clients that say their requests very slowly are cut off, and meanwhile keep
// nobody out.
func TestSlowClients(t *testing.T) {
	s := harness.Start(t, harness.Options{})
	b := create(t, s, "/v2/sandboxes", `{"templateID":"base"}`)
	b.serve(t, 8000, "")
	var slow []net.Conn
	for range 500 {
		conn := open(t, s)
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: 8000-"+b.ID+".localhost\r\nX-Slow: ")
		slow = append(slow, conn)
	}
	began := time.Now()
	for _, conn := range slow {
		_, _ = io.WriteString(conn, "x")
	}
	if a := b.get(t, 8000, "/"); a.status != http.StatusOK {
		t.Errorf("beside slow clients: %d", a.status)
	}
	for _, conn := range slow {
		if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
			t.Fatalf("a slow client was not cut off in %v", time.Since(began))
		}
	}
}

// Connections that stay open fill a sandbox's own bound and nothing else: its
// agent can be reached, and so can other sandboxes.
func TestOpenConnections(t *testing.T) {
	const bound = 40
	s := harness.Start(t, harness.Options{Env: []string{"SANDLOT_LIMITS_CONNECTIONS=" + strconv.Itoa(bound)}})
	b, other := create(t, s, "/v2/sandboxes", `{"templateID":"base"}`), create(t, s, "/v2/sandboxes", `{"templateID":"base"}`)
	b.serve(t, 8000, "")
	other.serve(t, 8000, "")
	var conns []net.Conn
	for range bound {
		conn, _ := upgrade(t, s, "Host: 8000-"+b.ID+".localhost\r\n")
		conns = append(conns, conn)
	}
	if a := b.get(t, 8000, "/"); a.status != http.StatusTooManyRequests || !strings.Contains(string(a.body), "limits.connections") {
		t.Errorf("one too many: %d %s", a.status, a.body)
	}
	if a := b.get(t, 8000, "/", "Accept", "text/html"); a.status != http.StatusTooManyRequests || !strings.Contains(string(a.body), "<h1>Too many connections</h1>") {
		t.Errorf("one too many, for people: %d %s", a.status, a.body)
	}
	b.run(t, "true")
	if a := other.get(t, 8000, "/"); a.status != http.StatusOK {
		t.Errorf("another sandbox: %d", a.status)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
	await(t, "room for another connection", func() bool { return b.get(t, 8000, "/").status == http.StatusOK })
}
