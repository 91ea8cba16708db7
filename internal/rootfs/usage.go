package rootfs

import (
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Searching the quota tree: BTRFS_IOC_TREE_SEARCH and its keys.
const (
	ioctlTreeSearch = 0xd0009411
	quotaTree       = 8
	qgroupInfoKey   = 242
)

type searchKey struct {
	treeID, minObject, maxObject, minOffset, maxOffset, minTransid, maxTransid uint64
	minType, maxType, items, unused                                            uint32
	unused1, unused2, unused3, unused4                                         uint64
}

type searchArgs struct {
	key searchKey
	buf [4096 - 104]byte
}

const (
	searchHeader = 32
	referencedAt = 8 // btrfs_qgroup_info_item: generation, rfer, …
)

// referenced returns the bytes the subvolume at path refers to, from its quota
// group's record in the quota tree.
func referenced(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	id, err := subvolumeID(f)
	if err != nil {
		return 0, err
	}
	args := searchArgs{key: searchKey{
		treeID: quotaTree, maxTransid: ^uint64(0), minType: qgroupInfoKey, maxType: qgroupInfoKey,
		minOffset: id, maxOffset: id, items: 1,
	}}
	if err := ioctl(f, ioctlTreeSearch, unsafe.Pointer(&args)); err != nil {
		return 0, err
	}
	if args.key.items == 0 {
		return 0, errors.New("no quota record")
	}
	at := searchHeader + referencedAt
	return int64(binary.LittleEndian.Uint64(args.buf[at : at+8])), nil
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
