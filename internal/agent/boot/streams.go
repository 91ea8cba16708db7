package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// nullStdio opens the sandbox's /dev/null as descriptors 0 to 2, in place of
// the host's.
func nullStdio() error {
	fd, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for std := range 3 {
		if err := unix.Dup3(fd, std, 0); err != nil {
			return err
		}
	}
	return nil
}

// openListener leaves a listening socket as ListenerFD for the agent. It is
// made inside the sandbox's own namespaces, so a checkpoint can hold it, and
// before the agent runs, so that the driver can connect at once.
func openListener() error {
	if err := os.MkdirAll(path.Dir(SocketPath), 0o700); err != nil {
		return err
	}
	if err := os.Remove(SocketPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: SocketPath}); err != nil {
		return fmt.Errorf("bind %s: %w", SocketPath, err)
	}
	if err := os.Chmod(SocketPath, 0o600); err != nil {
		return err
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return err
	}
	return unix.Dup3(fd, ListenerFD, 0) // takes the number over from the config pipe
}

// loopbackUp brings the namespace's own loopback interface up.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
