package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of btrfs used here, and their arguments, as linux/btrfs.h has them.
const (
	ioctlSubvolCreate = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	ioctlSnapDestroy  = 0x5000940f // BTRFS_IOC_SNAP_DESTROY
	ioctlQuotaCtl     = 0xc0109428 // BTRFS_IOC_QUOTA_CTL
	ioctlQgroupLimit  = 0x8030942b // BTRFS_IOC_QGROUP_LIMIT
	ioctlInoLookup    = 0xd0009412 // BTRFS_IOC_INO_LOOKUP

	quotaEnableSimple = 4 // BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA, kernel 6.7

	limitMaxReferenced = 1 << 0 // BTRFS_QGROUP_LIMIT_MAX_RFER
)

type volArgs struct {
	fd   int64
	name [4088]byte
}

type quotaCtl struct{ cmd, status uint64 }

type qgroupLimit struct {
	qgroupid, flags, maxRfer, maxExcl, rsvRfer, rsvExcl uint64
}

type inoLookup struct {
	treeid, objectid uint64
	name             [4080]byte
}

func isBtrfs(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.BTRFS_SUPER_MAGIC
}

// subvolumes is the backend on btrfs.
type subvolumes struct {
	loop   bool
	groups string   // where the kernel shows quota groups; empty without quotas
	known  sync.Map // of path to that of its quota group
}

func (s *subvolumes) describe() string {
	where := "the data directory's own btrfs"
	if s.loop {
		where = "btrfs in a loop file"
	}
	if !s.enforced() {
		return where + ", without quotas"
	}
	return where + ", simple quotas"
}

func (s *subvolumes) enforced() bool { return s.groups != "" }

func (s *subvolumes) create(path string, limit int64) error {
	if err := subvolIoctl(path, ioctlSubvolCreate); err != nil {
		return fmt.Errorf("create subvolume: %w", err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		return err
	}
	if !s.enforced() || limit <= 0 {
		return nil
	}
	if err := limitSubvolume(path, limit); err != nil {
		return errors.Join(fmt.Errorf("limit subvolume: %w", err), s.remove(path))
	}
	return nil
}

// remove deletes the subvolume at once; the kernel frees its space in the
// background.
func (s *subvolumes) remove(path string) error {
	err := subvolIoctl(path, ioctlSnapDestroy)
	s.known.Delete(path)
	return err
}

// usage reads what the subvolume's quota group is charged.
func (s *subvolumes) usage(path string) int64 {
	if !s.enforced() {
		return -1
	}
	n, err := s.used(path)
	if err != nil {
		return -1
	}
	return n
}

// subvolIoctl creates or destroys the subvolume at path from its parent.
func subvolIoctl(path string, request uintptr) error {
	parent, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	var args volArgs
	if copy(args.name[:len(args.name)-1], filepath.Base(path)) != len(filepath.Base(path)) {
		return unix.ENAMETOOLONG
	}
	return ioctl(parent, request, unsafe.Pointer(&args))
}

// limitSubvolume sets how many bytes the subvolume may refer to.
func limitSubvolume(path string, limit int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	id, err := subvolumeID(f)
	if err != nil {
		return err
	}
	args := qgroupLimit{qgroupid: id, flags: limitMaxReferenced, maxRfer: uint64(limit)}
	return ioctl(f, ioctlQgroupLimit, unsafe.Pointer(&args))
}

const firstFreeObject = 256 // the inode of every subvolume's root

func subvolumeID(f *os.File) (uint64, error) {
	args := inoLookup{objectid: firstFreeObject}
	err := ioctl(f, ioctlInoLookup, unsafe.Pointer(&args))
	return args.treeid, err
}

// enableQuota switches simple quotas on and returns where the kernel shows
// them. It fails where the kernel is too old for them: full accounting would
// cost every snapshot its speed.
func enableQuota(root string) (groups string, err error) {
	f, err := os.Open(root)
	if err != nil {
		return "", err
	}
	defer f.Close()
	args := quotaCtl{cmd: quotaEnableSimple}
	err = ioctl(f, ioctlQuotaCtl, unsafe.Pointer(&args))
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		return qgroupDir(root)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP):
		return "", errors.New("btrfs simple quotas need Linux 6.7 or newer")
	}
	return "", fmt.Errorf("enable quotas: %w", err)
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}
