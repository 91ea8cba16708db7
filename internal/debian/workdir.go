package debian

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const workPrefix = "debian-"

// WorkDir is a directory for one build, locked while the build lives.
type WorkDir struct {
	Path string
	lock *os.File
}

// NewWorkDir makes a directory for a build below parent.
func NewWorkDir(parent string) (*WorkDir, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make build directory: %w", err)
	}
	path, err := os.MkdirTemp(parent, workPrefix)
	if err != nil {
		return nil, fmt.Errorf("make build directory: %w", err)
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return &WorkDir{Path: path, lock: lock}, nil
}

// Close removes the directory with everything in it.
func (w *WorkDir) Close() error {
	defer w.lock.Close()
	return removeTree(w.Path)
}

// Sweep removes the directories below parent that builds left when they were
// killed, with the mounts in them. Those of living builds stay.
func Sweep(parent string) error {
	left, err := filepath.Glob(filepath.Join(parent, workPrefix+"*"))
	if err != nil {
		return fmt.Errorf("find old builds: %w", err)
	}
	var all []error
	for _, path := range left {
		lock, err := lockDir(path)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			all = append(all, err)
			continue
		}
		all = append(all, removeTree(path), lock.Close())
	}
	return errors.Join(all...)
}

func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock build directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock build directory: %w", err)
	}
	return f, nil
}

// removeTree deletes a directory after unmounting everything in it: what is
// mounted there can be the host's own /dev.
func removeTree(path string) error {
	for _, dir := range mountsBelow(path) {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount what a build left at %s: %w", dir, err)
		}
	}
	if left := mountsBelow(path); len(left) > 0 {
		return fmt.Errorf("remove build directory: %s is still mounted", left[0])
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove build directory: %w", err)
	}
	return nil
}

// mountsBelow lists the mount points in path, the latest first.
func mountsBelow(path string) []string {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(unescape.Replace(fields[4])+"/", path+"/") {
			found = append(found, unescape.Replace(fields[4]))
		}
	}
	slices.Reverse(found)
	return found
}

// unescape undoes how mountinfo writes paths (proc(5)).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
