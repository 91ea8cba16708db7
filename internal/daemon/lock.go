package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// leftoverTime is how long a child of a killed server may still hold copies of
// its descriptors: one that was cloned to become a sandbox, but not executed.
const leftoverTime = time.Second

// awaitLeftover calls do until it no longer fails with busy, at most that long.
func awaitLeftover(busy error, do func() error) error {
	for deadline := time.Now().Add(leftoverTime); ; time.Sleep(20 * time.Millisecond) {
		if err := do(); !errors.Is(err, busy) || time.Now().After(deadline) {
			return err
		}
	}
}

// lockDir takes the data directory for this process. The kernel gives the lock
// back when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = awaitLeftover(unix.EWOULDBLOCK, func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		pid, _ := os.ReadFile(path)
		f.Close()
		return nil, errs.New(errs.Conflict, "data directory %s is in use by another server (process %s)", dir, strings.TrimSpace(string(pid))).
			WithHint("stop that server first (Ctrl-C, or kill %s), or name another --data-dir", strings.TrimSpace(string(pid)))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
