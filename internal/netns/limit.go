package netns

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// A TCP connection costs the server a socket and a goroutine before it has
// asked anything, so connections are bounded like queries.
const (
	maxConns           = 256
	maxConnsPerSandbox = 16
	// A sandbox that does not read its answer must not hold its place.
	writeTimeout = 2 * time.Second
)

// limitedListener closes at once what comes from elsewhere than a sandbox, and
// what is more than one of them, or all, may have open.
type limitedListener struct {
	net.Listener

	mu    sync.Mutex
	total int
	conns map[netip.Addr]int
}

func limited(l net.Listener) *limitedListener {
	return &limitedListener{Listener: l, conns: map[netip.Addr]int{}}
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err == nil && OuterNet.Contains(from.Addr()) && l.open(from.Addr()) {
			return &limitedConn{Conn: c, listener: l, from: from.Addr()}, nil
		}
		_ = c.Close()
	}
}

func (l *limitedListener) open(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total == maxConns || l.conns[from] == maxConnsPerSandbox {
		return false
	}
	l.total++
	l.conns[from]++
	return true
}

func (l *limitedListener) closed(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.conns[from]--; l.conns[from] == 0 {
		delete(l.conns, from)
	}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn

	listener *limitedListener
	from     netip.Addr
	once     sync.Once
}

// Write implements net.Conn; it gives up on who does not read.
func (c *limitedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.once.Do(func() { c.listener.closed(c.from) })
	return c.Conn.Close()
}
