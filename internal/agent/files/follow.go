package files

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openFile opens path, also where it leads through a link in a directory like
// /tmp. There fs.protected_symlinks (proc_sys_fs(5)) lets only the link's owner
// follow it, which the agent as root is not. The rule guards programs against
// links planted by other users; the agent acts for the user who names the path.
func openFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0)
	if !errors.Is(err, unix.EACCES) {
		return f, err
	}
	target, resolveErr := filepath.EvalSymlinks(path)
	if resolveErr != nil || target == path {
		return nil, err
	}
	return os.OpenFile(target, flags, 0)
}

// statTarget is os.Stat with the same care.
func statTarget(path string) (os.FileInfo, error) {
	info, err := os.Stat(path)
	if !errors.Is(err, unix.EACCES) {
		return info, err
	}
	target, resolveErr := filepath.EvalSymlinks(path)
	if resolveErr != nil {
		return nil, err
	}
	return os.Lstat(target)
}
