package files

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func (s *Service) move(ctx context.Context, source, destination string, user account.User) error {
	if _, err := os.Lstat(source); err != nil {
		return wire.Errno(err, "move", source)
	}
	if strings.HasPrefix(destination, strings.TrimSuffix(source, "/")+"/") {
		return errs.New(errs.Invalid, "%s cannot be moved into itself", source)
	}
	if err := s.ensureDir(filepath.Dir(destination), user); err != nil {
		return err
	}
	err := unix.Rename(source, destination) // os.Rename refuses an empty directory
	// Another mount, or a directory of the image, which an overlay does not
	// rename: copy, as mv does.
	if errors.Is(err, syscall.EXDEV) {
		err = moveByCopy(ctx, source, destination)
	}
	return wire.Errno(err, "move "+source+" to", destination)
}

// moveByCopy copies a tree beside its destination, swaps it in and removes the
// source. On error the source is whole.
func moveByCopy(ctx context.Context, source, destination string) error {
	temporary := movedTree.name(filepath.Dir(destination))
	err := copyTree(ctx, source, temporary)
	if err == nil {
		err = unix.Rename(temporary, destination)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(temporary))
	}
	return os.RemoveAll(source)
}

// copyTree copies a file or a tree with owners, modes, times and attributes.
func copyTree(ctx context.Context, source, destination string) error {
	err := filepath.WalkDir(source, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		return copyEntry(ctx, path, destination+path[len(source):])
	})
	if err != nil {
		return err
	}
	// Times of directories last: filling them has changed them.
	return filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		return setTimes(destination+path[len(source):], &st)
	})
}

func copyEntry(ctx context.Context, source, destination string) error {
	var st unix.Stat_t
	if err := unix.Lstat(source, &st); err != nil {
		return err
	}
	if err := create(ctx, source, destination, &st); err != nil {
		return err
	}
	// An ordinary user's agent cannot give files away, and need not: it owns them.
	if err := os.Lchown(destination, int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, syscall.EPERM) {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return setTimes(destination, &st)
	}
	copyAttributes(source, destination)
	if err := unix.Chmod(destination, st.Mode&0o7777); err != nil {
		return err
	}
	return setTimes(destination, &st)
}

// create makes destination of the same type as source, with its content.
func create(ctx context.Context, source, destination string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return os.Mkdir(destination, 0o700)
	case unix.S_IFLNK:
		target, err := os.Readlink(source)
		if err != nil {
			return err
		}
		return os.Symlink(target, destination)
	case unix.S_IFREG:
		return copyContent(ctx, source, destination)
	default:
		return unix.Mknod(destination, st.Mode, int(st.Rdev))
	}
}

func copyContent(ctx context.Context, source, destination string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(destination, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copyFile(ctx, out, in, destination)
	return errors.Join(err, out.Close())
}

// copyAttributes copies what attributes it can; mv does not fail for them either.
func copyAttributes(source, destination string) {
	size, err := unix.Llistxattr(source, nil)
	if err != nil || size <= 0 {
		return
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(source, names); err != nil {
		return
	}
	value := make([]byte, 64<<10) // the kernel's limit of one value
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		if n, err := unix.Lgetxattr(source, name, value); err == nil {
			_ = unix.Lsetxattr(destination, name, value[:n], 0)
		}
	}
}

func setTimes(path string, st *unix.Stat_t) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}
