package agentclient

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxIdle and maxIdleAll bound the connections kept for the next request of
	// one sandbox, and of all; LimitIdle may lower the latter.
	maxIdle, maxIdleAll = 32, 2048
	// keepIdle is how long one is kept.
	keepIdle = time.Minute
)

// link is a connection to an agent, used by one exchange at a time.
type link struct {
	conn net.Conn
	// bound limits what buffered may read.
	bound    io.LimitedReader
	buffered *bufio.Reader
	// watched is closed when nobody watches the idle connection any more, nil if
	// it never was idle.
	watched chan struct{}
}

// idleLinks are the connections no request uses. Each is watched: one whose
// sandbox ends is closed at once, since it keeps the kernel from freeing what the
// sandbox had.
type idleLinks struct {
	mu     sync.Mutex
	byID   map[string][]*link
	count  int
	most   int // of all, 0 for maxIdleAll
	closed bool
	wg     sync.WaitGroup
}

// LimitIdle bounds the connections kept for the next request of all sandboxes:
// each takes a descriptor. It never raises the bound of 2048, and 0 leaves that.
// Call it before the first Forward.
func (f *Forwarder) LimitIdle(most int) { f.idle.most = min(most, maxIdleAll) }

// connect opens a connection to the agent of a sandbox.
func (f *Forwarder) connect(ctx context.Context, id string) (*link, error) {
	conn, err := f.dial(ctx, id)
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn}
	l.bound = io.LimitedReader{R: conn, N: math.MaxInt64}
	l.buffered = bufio.NewReader(&l.bound)
	return l, nil
}

// take returns an idle connection, nil if there is none. Its watcher is told to
// leave; awake waits for that.
func (s *idleLinks) take(id string) *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.byID[id]
	if len(all) == 0 {
		return nil
	}
	l := all[len(all)-1]
	s.remove(id, l)
	_ = l.conn.SetReadDeadline(past) // fails if it is closed: so will the request
	return l
}

// past is a deadline that interrupts at once.
var past = time.Unix(0, 0)

// remove takes l off the list, and reports whether it was there. The caller
// holds mu.
func (s *idleLinks) remove(id string, l *link) bool {
	all := s.byID[id]
	i := slices.Index(all, l)
	if i < 0 {
		return false
	}
	s.count--
	if all = slices.Delete(all, i, i+1); len(all) == 0 {
		delete(s.byID, id)
	} else {
		s.byID[id] = all
	}
	return true
}

// put keeps a connection for the next request.
func (s *idleLinks) put(id string, l *link) {
	raw, err := rawConn(l.conn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || s.closed || len(s.byID[id]) >= maxIdle || s.count >= cmp.Or(s.most, maxIdleAll) ||
		l.conn.SetReadDeadline(time.Now().Add(keepIdle)) != nil {
		l.close()
		return
	}
	s.byID[id] = append(s.byID[id], l)
	s.count++
	l.watched = make(chan struct{})
	s.wg.Go(func() { s.watch(id, l, raw) })
}

func rawConn(conn net.Conn) (syscall.RawConn, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T cannot be watched", conn)
	}
	return c.SyscallConn()
}

// watch waits until the connection is taken, has been idle too long, or says
// something, which can only be its end.
func (s *idleLinks) watch(id string, l *link, raw syscall.RawConn) {
	defer close(l.watched)
	_ = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remove(id, l) {
		l.close()
	}
}

// close closes all and waits for those who watch them.
func (s *idleLinks) close() {
	s.mu.Lock()
	s.closed = true
	for _, all := range s.byID {
		for _, l := range all {
			l.close()
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// awake makes a connection that was idle ready for reading.
func (l *link) awake() error {
	if l.watched == nil {
		return nil
	}
	<-l.watched
	l.watched = nil
	if err := l.conn.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("read the reply: %w", err)
	}
	return nil
}

func (l *link) write(p []byte) error {
	_, err := l.conn.Write(p)
	return err
}

// sendBuffer is what the kernel keeps of a large body, in bytes: enough that the
// two ends need not take turns.
const sendBuffer = 1 << 20

// widen makes the kernel keep more than its default. Without privileges it may
// refuse, which costs speed only.
func (l *link) widen() {
	raw, err := rawConn(l.conn)
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	})
}

// close may be called again and while the connection is used.
func (l *link) close() { _ = l.conn.Close() }
