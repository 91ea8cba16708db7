// Package listener lets plain HTTP and TLS share one port: it looks at the
// first byte of each connection, which is 0x16 for TLS and a letter for HTTP,
// and hands over the connection as it is or under TLS. It owns connections that
// have not said anything yet, and bounds them in time and number. The daemon
// makes the one there is.
package listener

import (
	"container/list"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// recordHandshake is the type of a TLS connection's first record (RFC 8446,
// section 5.1). No HTTP method begins with it.
const recordHandshake = 0x16

// Options say how to listen.
type Options struct {
	// TLS configures the connections that begin with a handshake.
	TLS *tls.Config
	// Patience is how long a client may take to say its first byte.
	Patience time.Duration
	// Silent is how many clients may be about to say it. One more, and the one
	// that has been silent longest is cut off.
	Silent int
}

// Listener is a net.Listener of plain and TLS connections; the latter are
// *tls.Conn, so that net/http negotiates HTTP/2 on them. Their handshake is the
// caller's to make. It is safe for concurrent use.
type Listener struct {
	inner net.Listener
	opts  Options
	ready chan accepted
	done  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup

	mu     sync.Mutex
	silent list.List // of net.Conn, the oldest first
	closed bool
}

type accepted struct {
	conn net.Conn
	err  error
}

// New takes over inner, which must be TCP or unix. Close ends both.
func New(inner net.Listener, o Options) *Listener {
	l := &Listener{inner: inner, opts: o, ready: make(chan accepted), done: make(chan struct{})}
	l.wg.Go(l.acceptAll)
	return l
}

// Accept returns the next connection that has said something. It blocks.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr is the inner listener's.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close stops listening and drops the clients that have not said anything yet.
// It waits until that is done.
func (l *Listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.done)
		err = l.inner.Close()
		l.hangUp()
	})
	l.wg.Wait()
	return err
}

func (l *Listener) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for e := l.silent.Front(); e != nil; e = e.Next() {
		l.cut(e)
	}
}

func (l *Listener) acceptAll() {
	for {
		conn, err := l.inner.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Such as too many open files: net/http waits a little before it
			// accepts again, and until then so do we.
			if !l.hand(accepted{err: err}) {
				return
			}
			continue
		}
		e := l.await(conn)
		l.wg.Go(func() { l.sort(conn, e) })
	}
}

// await counts a connection among the silent ones.
func (l *Listener) await(conn net.Conn) *list.Element {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.silent.PushBack(conn)
	if l.closed {
		l.cut(e)
	}
	if l.silent.Len() > l.opts.Silent {
		oldest := l.silent.Front()
		l.cut(oldest)
		l.silent.Remove(oldest)
	}
	return e
}

// cut resets a connection: an orderly end would leave the kernel the state of
// each of a flood.
func (l *Listener) cut(e *list.Element) {
	conn, _ := e.Value.(net.Conn)
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // closed by its client already
	}
	_ = conn.Close()
}

func (l *Listener) spoke(e *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent.Remove(e)
}

// sort waits for a connection's first byte and hands it over accordingly.
func (l *Listener) sort(conn net.Conn, e *list.Element) {
	first, err := l.first(conn)
	l.spoke(e)
	if err != nil {
		_ = conn.Close() // silent, gone or cut off: nobody to tell
		return
	}
	if first == recordHandshake {
		conn = tls.Server(conn, l.opts.TLS)
	}
	if !l.hand(accepted{conn: conn}) {
		_ = conn.Close()
	}
}

// hand gives a result to Accept, and reports whether it was taken.
func (l *Listener) hand(a accepted) bool {
	select {
	case l.ready <- a:
		return true
	case <-l.done:
		return false
	}
}

// first returns the first byte without taking it from the connection, which
// therefore stays what it was: net/http copies from and to TCP connections in
// the kernel where it can.
func (l *Listener) first(conn net.Conn) (byte, error) {
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(l.opts.Patience)); err != nil {
		return 0, err
	}
	b, err := peek(raw)
	if err != nil {
		return 0, err
	}
	return b, conn.SetReadDeadline(time.Time{})
}

func peek(raw syscall.RawConn) (byte, error) {
	var buf [1]byte
	var n int
	var failed error
	err := raw.Read(func(fd uintptr) bool {
		for {
			n, _, failed = unix.Recvfrom(int(fd), buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if failed != unix.EINTR {
				return failed != unix.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, os.NewSyscallError("recvfrom", failed)
	case n == 0:
		return 0, io.EOF
	}
	return buf[0], nil
}
