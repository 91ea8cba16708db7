package watch

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// networkTypes are file systems that others may change without this kernel
// hearing of it. The numbers without a name in the library are from the kernel's
// sources of each.
var networkTypes = map[uint32]string{
	unix.NFS_SUPER_MAGIC:   "NFS",
	unix.FUSE_SUPER_MAGIC:  "FUSE",
	unix.SMB_SUPER_MAGIC:   "SMB",
	unix.SMB2_SUPER_MAGIC:  "SMB",
	unix.CIFS_SUPER_MAGIC:  "CIFS",
	unix.V9FS_MAGIC:        "9P",
	unix.AFS_SUPER_MAGIC:   "AFS",
	unix.CEPH_SUPER_MAGIC:  "Ceph",
	unix.CODA_SUPER_MAGIC:  "Coda",
	unix.NCP_SUPER_MAGIC:   "NCP",
	unix.OCFS2_SUPER_MAGIC: "OCFS2",
	0x0bd00bd0:             "Lustre",
	0x01161970:             "GFS2",
	0x47504653:             "GPFS",
	0xa501fcf5:             "VxFS",
	0x786f4256:             "VirtualBox shared folders",
}

// pseudoTypes are views of the kernel, which has no events for what changes in
// them and makes directories by the thousand. A tree that leads into one ends
// there.
var pseudoTypes = map[uint32]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true,
	unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true, unix.SECURITYFS_MAGIC: true, unix.BPF_FS_MAGIC: true,
	unix.DEVPTS_SUPER_MAGIC: true, unix.NSFS_MAGIC: true,
}

func typeOf(f *os.File) (uint32, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	return uint32(st.Type), nil
}

// refuseNetwork refuses a directory of a network file system unless w allows it.
func refuseNetwork(f *os.File, w *Watcher) error {
	kind, err := typeOf(f)
	if err != nil {
		return err
	}
	if name, is := networkTypes[kind]; is && !w.network {
		return errs.New(errs.Invalid, "%s is on a network file system (%s), where changes made by other machines are not seen; set allowNetworkMounts to watch it all the same", w.path, name)
	}
	return nil
}

// foreign reports whether the tree of w ends before the open directory f, on
// another file system than its parent.
func foreign(f *os.File, w *Watcher) bool {
	kind, err := typeOf(f)
	_, network := networkTypes[kind]
	return err != nil || pseudoTypes[kind] || network && !w.network
}
