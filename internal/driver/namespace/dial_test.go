package namespace

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDialQueue fills a socket's queue.
func TestDialQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for {
		c, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := dialQueue(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial of a full queue: %v", err)
	}
	accepted := time.AfterFunc(10*time.Millisecond, func() {
		if n, _, err := unix.Accept(fd); err == nil {
			_ = unix.Close(n)
		}
	})
	defer accepted.Stop()
	c, err := dialQueue(t.Context(), path)
	if err != nil {
		t.Fatalf("dial while the queue gets shorter: %v", err)
	}
	_ = c.Close()
}
