package rootfs

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const ioctlFSInfo = 0x8400941f // BTRFS_IOC_FS_INFO

type fsInfo struct {
	maxID, devices uint64
	uuid           [16]byte
	rest           [992]byte
}

// qgroupDir returns where the kernel shows the quota groups of the btrfs file
// system at root. It shows them as they are now; their records on disk, which
// a tree search finds, are up to half a minute old.
func qgroupDir(root string) (string, error) {
	f, err := os.Open(root)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var info fsInfo
	if err := ioctl(f, ioctlFSInfo, unsafe.Pointer(&info)); err != nil {
		return "", fmt.Errorf("find uuid of btrfs: %w", err)
	}
	u := info.uuid
	return fmt.Sprintf("/sys/fs/btrfs/%x-%x-%x-%x-%x/qgroups", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}

// used returns the bytes charged to the subvolume at path: what it refers to,
// and what was written but has no place on the disk yet.
func (s *subvolumes) used(path string) (int64, error) {
	group, err := s.group(path)
	if err != nil {
		return 0, err
	}
	referenced, err := readNumber(group + "/referenced")
	if err != nil {
		return 0, err
	}
	reserved, err := readNumber(group + "/rsv_data")
	return referenced + reserved, err
}

// group returns where the kernel shows the quota group of the subvolume at
// path. It is looked up once: usage is asked for often.
func (s *subvolumes) group(path string) (string, error) {
	if g, ok := s.known.Load(path); ok {
		return g.(string), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	id, err := subvolumeID(f)
	if err != nil {
		return "", err
	}
	group := s.groups + "/0_" + strconv.FormatUint(id, 10)
	s.known.Store(path, group)
	return group, nil
}

// readNumber reads a file that holds one number, with one open, one read and
// one close; package os does more than twice the work.
func readNumber(path string) (int64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var buf [32]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return strconv.ParseInt(string(bytes.TrimSpace(buf[:n])), 10, 64)
}

// hasBtrfs reports whether the kernel knows btrfs, loading its module if need be.
func hasBtrfs() bool {
	fd, err := unix.Fsopen("btrfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
