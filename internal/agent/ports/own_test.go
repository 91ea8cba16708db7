package ports

import (
	"errors"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// inNamespace runs a test on a thread with a network namespace of its own, which
// ends with it, whose loopback interface has another address too.
func inNamespace(t *testing.T, address string, test func()) {
	t.Helper()
	testreq.Root(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNET), setUp("lo", ""), setUp("lo:1", address)); err != nil {
			t.Error(err)
			return
		}
		test()
	}()
	<-done
}

// setUp gives an interface an address, if there is one, and sets it up.
func setUp(name, address string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if address != "" {
		if err := req.SetInet4Addr(net.ParseIP(address).To4()); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, req)
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// A server is found on whichever of the sandbox's addresses it listens, one on a
// loopback address before others.
func TestDialOwnAddresses(t *testing.T) {
	for _, own := range []string{"10.98.76.54", "169.254.0.21"} { // sandboxes have one like the second
		inNamespace(t, own, func() { testOwn(t, own) })
	}
}

func testOwn(t *testing.T, own string) {
	for _, listening := range [][]string{{own}, {"127.0.0.1"}, {"0.0.0.0"}, {own, "127.0.0.1"}, {}} {
		found, err := dialed(t, listening)
		switch want := strings.Join(listening[max(0, len(listening)-1):], ""); {
		case want == "" && !errors.Is(err, syscall.ECONNREFUSED):
			t.Errorf("nobody listens: %v", err)
		case want != "" && (err != nil || found != want && want != "0.0.0.0"):
			t.Errorf("on %v: connected to %q, %v", listening, found, err)
		}
	}
}

// dialed returns which address dial connects to when servers listen on these.
func dialed(t *testing.T, listening []string) (string, error) {
	for _, host := range listening {
		ln, err := net.Listen("tcp", host+":3000")
		if err != nil {
			t.Error(err)
			return "", err
		}
		defer ln.Close()
	}
	conn, err := dial(t.Context(), "3000")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	return host, err
}
