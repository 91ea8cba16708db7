package agent

import (
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// listener hands out connections that send files without copying them through
// this process.
type listener struct{ net.Listener }

// Accept waits for the next connection.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if u, ok := c.(*net.UnixConn); ok {
		return fileConn{u}, nil
	}
	return c, nil
}

// fileConn is a unix connection that net/http can give a file to.
type fileConn struct{ *net.UnixConn }

// NetConn returns the connection itself.
func (c fileConn) NetConn() net.Conn { return c.UnixConn }

// copyBytes is the buffer of a copy that the kernel does not do.
const copyBytes = 128 << 10

// ReadFrom sends src. A file, whole or limited, goes by sendfile(2).
func (c fileConn) ReadFrom(src io.Reader) (int64, error) {
	if l, ok := src.(*io.LimitedReader); ok {
		if f, ok := l.R.(*os.File); ok {
			n, err := c.sendFile(f, l.N)
			l.N -= n
			if n > 0 || err == nil {
				return n, err
			}
			// The file cannot be sent that way: copy it.
		}
	}
	return io.CopyBuffer(onlyWriter{c.UnixConn}, src, make([]byte, copyBytes))
}

// sendFile sends up to limit bytes of f from its offset, fewer if it ends.
func (c fileConn) sendFile(f *os.File, limit int64) (sent int64, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		for sent < limit {
			n, e := unix.Sendfile(int(fd), int(f.Fd()), nil, int(min(limit-sent, 1<<30)))
			if n > 0 {
				sent += int64(n)
			}
			switch {
			case e == unix.EINTR:
			case e == unix.EAGAIN:
				return false
			case e != nil || n == 0:
				sendErr = e
				return true
			}
		}
		return true
	})
	if err == nil && sendErr != nil {
		err = os.NewSyscallError("sendfile", sendErr)
	}
	return sent, err
}

// onlyWriter hides every other method, so that a copy does not come back here.
type onlyWriter struct{ io.Writer }
