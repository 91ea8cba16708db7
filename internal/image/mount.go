package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Mount makes an image readable and returns the directory, which stays the same
// for the life of the store. EROFS images are mounted read-only without devices
// (setuid programs work: sandboxes need sudo); directories are used where they
// are. Mount is idempotent and never mounts twice, not even over a mount that an
// earlier process left. A damaged image is refused with errs.Invalid, a missing
// one with errs.NotFound.
//
// An EROFS image that came from another host, or from a newer kernel, to a
// store that keeps directories is unpacked first, which takes seconds.
func (s *Store) Mount(ctx context.Context, digest string) (string, error) {
	info, err := s.Stat(digest)
	if err != nil {
		return "", err
	}
	if info.Format == EROFS && s.format == Directory {
		if info, err = s.Import(ctx, s.dir, digest); err != nil {
			return "", err
		}
	}
	if info.Format == Directory {
		return s.dirPath(digest), nil
	}
	return s.mountOnce(digest)
}

func (s *Store) mountOnce(digest string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.mountPath(digest)
	if s.mounts[digest] {
		return dir, nil
	}
	if err := s.mountEROFS(digest, dir); err != nil {
		return "", err
	}
	s.mounts[digest] = true
	return dir, nil
}

func (s *Store) mountEROFS(digest, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make mount point: %w", err)
	}
	if isMountPoint(dir) {
		return nil
	}
	fd, err := detachedEROFS(s.erofsPath(digest))
	if err != nil {
		return mountError(digest, err)
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return mountError(digest, err)
	}
	return nil
}

func mountError(digest string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return errs.Wrap(err, errs.Forbidden, "mounting images needs root")
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EINVAL):
		return damaged(digest, "the kernel refuses it: "+err.Error())
	case errors.Is(err, unix.ENOTBLK), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOSYS):
		return &errs.Error{
			Kind: errs.Unsupported, Cause: err,
			Public: fmt.Sprintf("image %s is an EROFS file, which this kernel cannot mount", short(digest)),
			Hint:   "boot Linux 6.12 or later, or build the template again to keep it as a directory",
		}
	}
	return fmt.Errorf("mount image %s: %w", short(digest), err)
}

// detachedEROFS mounts an EROFS file read-only at no place yet and returns the
// mount. The kernel reads the file itself; there is no loop device.
func detachedEROFS(path string) (int, error) {
	ctx, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigSetString(ctx, "source", path); err != nil {
		return -1, err
	}
	if err := unix.FsconfigSetFlag(ctx, "ro"); err != nil {
		return -1, err
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, err
	}
	return unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
}

// ProbeEROFS tries whether the kernel can mount an EROFS file that lies in dir,
// by doing so with a tiny one, which is attached nowhere. The error says why not.
func ProbeEROFS(dir string) error {
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("make probe image: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w := erofs.Create(f, erofs.WithTempDir(dir))
	if err := w.Mkdir("/probe", 0o755); err != nil {
		return fmt.Errorf("make probe image: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("make probe image: %w", err)
	}
	fd, err := detachedEROFS(f.Name())
	if err != nil {
		return fmt.Errorf("mount an EROFS file: %w", err)
	}
	return unix.Close(fd)
}

// isMountPoint reports whether something is mounted on dir.
func isMountPoint(dir string) bool {
	var here, above unix.Stat_t
	if unix.Stat(dir, &here) != nil || unix.Stat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

// Unmount undoes Mount. Sandboxes that still use the image keep it. It is
// idempotent. The empty mount point stays: removing it would end the mounts that
// other mount namespaces have there.
func (s *Store) Unmount(_ context.Context, digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unmount(digest)
}

func (s *Store) unmount(digest string) error {
	dir := s.mountPath(digest)
	if isMountPoint(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount image %s: %w", short(digest), err)
		}
	}
	delete(s.mounts, digest)
	return nil
}

// Close unmounts what this store mounted.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []error
	for digest := range s.mounts {
		all = append(all, s.unmount(digest))
	}
	return errors.Join(all...)
}
