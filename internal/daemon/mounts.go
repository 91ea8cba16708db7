package daemon

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// privateMarker tells the second execution of the program that it is one.
const privateMarker = "SANDLOT_PRIVATE_MOUNTS"

// EnterPrivateMounts moves the process into a mount namespace of its own, by
// executing it again: images and the pool are then mounted where nobody else
// sees them, and the kernel unmounts them whenever the process ends. Mounts the
// host makes later still appear inside. It returns in the second execution.
func EnterPrivateMounts() error {
	if os.Getenv(privateMarker) != "" {
		// Modes of what sandboxes see must not depend on who started the server.
		unix.Umask(0o022)
		return os.Unsetenv(privateMarker)
	}
	runtime.LockOSThread() // until exec
	if os.Geteuid() != 0 {
		return errs.New(errs.Forbidden, "this needs root").WithHint("run it as root, e.g. with sudo")
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace (needs root): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	err := unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), privateMarker+"=1"))
	return fmt.Errorf("execute again: %w", err)
}
