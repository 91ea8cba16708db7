// Package ports connects the host to TCP servers inside the sandbox: the host
// sends CONNECT over the agent's socket, the agent dials from within the
// sandbox's network namespace and copies both ways. So a server bound to
// 127.0.0.1 is reachable, and so is one in a sandbox without a network, and one
// bound to the sandbox's own address only. Only the agent imports this package.
package ports

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// dialTimeout bounds one attempt; everything inside a sandbox is near.
const dialTimeout = 5 * time.Second

// maxOwn bounds how many of the sandbox's own addresses are tried, of which root
// in there may make any number.
const maxOwn = 8

// established is the whole answer to a CONNECT that worked.
const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// Tunnels serves CONNECT requests. It is safe for concurrent use.
type Tunnels struct {
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// New returns Tunnels without any.
func New() *Tunnels { return &Tunnels{open: map[net.Conn]struct{}{}} }

// Close breaks all tunnels and waits until they are gone.
func (t *Tunnels) Close() {
	t.mu.Lock()
	t.closed = true
	for c := range t.open {
		_ = c.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

// ServeHTTP answers CONNECT host:port. It returns when the tunnel ends.
func (t *Tunnels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	port, err := portOf(r.Host)
	if err != nil {
		wire.WriteError(w, err)
		return
	}
	server, err := dial(r.Context(), port)
	if err != nil {
		wire.WriteStatus(w, http.StatusBadGateway, dialText(err, r.Host))
		return
	}
	defer server.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		wire.WriteStatus(w, http.StatusInternalServerError, "this connection cannot be a tunnel")
		return
	}
	defer client.Close()
	if !t.track(client, server) {
		return
	}
	defer t.untrack(client, server)
	if _, err := io.WriteString(client, established); err != nil {
		return
	}
	splice(client, buffered.Reader, server)
}

// track makes a tunnel known to Close; false after Close.
func (t *Tunnels) track(conns ...net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(1)
	for _, c := range conns {
		t.open[c] = struct{}{}
	}
	return true
}

func (t *Tunnels) untrack(conns ...net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range conns {
		delete(t.open, c)
	}
	t.wg.Done()
}

// portOf returns the port to connect to: "localhost" is all the host asks for,
// and so all there is. Anything else would be an order from outside that slipped
// through.
func portOf(hostport string) (string, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil || host != "localhost" {
		return "", errs.New(errs.Invalid, "CONNECT needs localhost and a port number, not %q", hostport)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", errs.New(errs.Invalid, "%q is not a port number", port)
	}
	return port, nil
}

// dial connects to whatever listens on port: on a loopback address, else on one
// of the sandbox's own. The error is the first one.
func dial(ctx context.Context, port string) (*net.TCPConn, error) {
	conn, err := dialFirst(ctx, []string{"127.0.0.1", "::1"}, port)
	if err == nil || !errors.Is(err, syscall.ECONNREFUSED) {
		return conn, err
	}
	if conn, otherErr := dialFirst(ctx, ownAddresses(), port); otherErr == nil && conn != nil {
		return conn, nil
	}
	return nil, err
}

// dialFirst returns the first connection that works, else the first error.
func dialFirst(ctx context.Context, hosts []string, port string) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	var first error
	for _, host := range hosts {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// ownAddresses returns the addresses of this network namespace that a server may
// be bound to alone: connections to them do not leave it. There are none if the
// kernel does not tell.
func ownAddresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var own []string
	for _, addr := range all {
		// A sandbox's IPv4 address is a link-local one. Those of IPv6 say nothing
		// without their interface.
		if n, ok := addr.(*net.IPNet); ok && (n.IP.IsGlobalUnicast() || n.IP.To4() != nil && n.IP.IsLinkLocalUnicast()) && len(own) < maxOwn {
			own = append(own, n.IP.String())
		}
	}
	return own
}

func dialText(err error, hostport string) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: nothing in the sandbox listens on " + hostport
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer from " + hostport + " inside the sandbox"
	default:
		return "cannot connect to " + hostport + " inside the sandbox"
	}
}

// halfCloser is a connection whose writing side can end alone.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// splice copies both ways until both ends have said all, or one breaks, or the
// client is gone. early is what was read from client ahead of time.
func splice(client net.Conn, early io.Reader, server *net.TCPConn) {
	var both sync.WaitGroup
	downward := make(chan struct{})
	both.Go(func() {
		defer close(downward)
		pass(client, server, nil)
	})
	pass(server, client, early)
	// The client has said all. It may still listen, but if it is gone, a server
	// that does not care for the end of its input must not keep the tunnel.
	both.Go(func() {
		<-downward
		_ = client.SetReadDeadline(time.Unix(1, 0)) // ends awaitHangup
	})
	if !awaitHangup(client) {
		<-downward
	}
	_ = client.Close()
	_ = server.Close()
	both.Wait()
}

// awaitHangup waits, without a thread, until the other end of a unix connection
// has been closed in both directions; false if that cannot be seen, or the wait
// was ended before.
func awaitHangup(conn net.Conn) (gone bool) {
	c, ok := plain(conn).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool {
		events := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(events, 0)
		gone = err == nil && n > 0 && events[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		return gone
	})
	return gone && err == nil
}

// pass copies src to dst and hands the end of src on. After an error both are
// closed, so that the other direction ends too.
func pass(dst, src net.Conn, early io.Reader) {
	err := copyEarly(dst, early)
	if err == nil {
		// Both are plain sockets here: the kernel moves the data.
		_, err = io.Copy(plain(dst), plain(src))
	}
	if half, ok := dst.(halfCloser); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		_ = dst.Close()
		_ = src.Close()
	}
}

// buffered is a reader that knows how much it holds, as bufio.Reader does.
type buffered interface{ Buffered() int }

func copyEarly(dst io.Writer, early io.Reader) error {
	b, ok := early.(buffered)
	if !ok || b.Buffered() == 0 {
		return nil
	}
	_, err := io.CopyN(dst, early, int64(b.Buffered()))
	return err
}

// plain unwraps a connection that decorates another.
func plain(c net.Conn) net.Conn {
	if u, ok := c.(interface{ NetConn() net.Conn }); ok {
		return u.NetConn()
	}
	return c
}
