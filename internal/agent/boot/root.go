package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// enterRoot makes the current directory, which the driver set to the mounted
// root, the root of this mount namespace. Paths are relative throughout: the
// directories above belong to ids that do not exist in this user namespace and
// cannot be walked.
func enterRoot(cfg Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := coverRoot(); err != nil {
		return err
	}
	// /proc and /sys before the host's are detached: the kernel lets a user
	// namespace mount them only while it sees a whole one (mount_too_revealing).
	if err := mountKernelFS(cfg); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's root: %w", err)
	}
	return os.Chdir("/")
}

// coverRoot puts a recursive copy of the root's mount over itself and steps
// into it. The mount made by the driver is locked, being from a more
// privileged namespace, and pivot_root refuses locked mounts.
func coverRoot() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, ".", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, ".", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return unix.Fchdir(fd)
}

const (
	nodevAll = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	readOnly = unix.MS_RDONLY
)

// maxTerminals is how many pseudo-terminals a sandbox may have open. The kernel
// has 3,072 for all of them together (kernel.pty.max less kernel.pty.reserve);
// this is a small part of that, and more than people or tmux keep open.
const maxTerminals = "128"

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func mountKernelFS(cfg Config) error {
	for _, m := range []mount{
		{"proc", "proc", "proc", nodevAll, ""},
		{"sysfs", "sys", "sysfs", nodevAll | readOnly, ""},
		{"devpts", "dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5,max=" + maxTerminals},
		{"shm", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", cfg.ShmBytes)},
	} {
		if err := ensureDir(m.target); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return hideKernelFiles()
}

// ensureDir makes a missing mount point; images from elsewhere may lack one.
func ensureDir(path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// readOnlyPaths may be read but not written, not even by the sandbox's root:
// they act on the whole kernel.
var readOnlyPaths = []string{"proc/sys", "proc/bus", "proc/irq", "proc/sysrq-trigger"}

// maskedPaths show the host's keys, timers, disks (with the paths of images and
// pools on them) or hardware to every user. Files that only the host's root may
// read need no mask: the sandbox's root is none.
var maskedPaths = []string{
	"proc/kcore", "proc/keys", "proc/timer_list", "proc/latency_stats", "proc/sched_debug", "proc/interrupts",
	"proc/cmdline", "proc/config.gz", "proc/partitions", "proc/diskstats", "proc/locks",
	"proc/acpi", "proc/asound", "proc/scsi", "proc/fs",
	"sys/firmware", "sys/block", "sys/class/block", "sys/dev/block", "sys/devices/virtual/block", "sys/fs",
	"sys/devices/virtual/dmi", "sys/devices/virtual/powercap",
}

func hideKernelFiles() error {
	for _, p := range readOnlyPaths {
		if err := bindReadOnly(p); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
	}
	empty := ""
	for _, p := range maskedPaths {
		if err := mask(p, &empty); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mask %s: %w", p, err)
		}
	}
	return nil
}

func bindReadOnly(path string) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|nodevAll, "")
}

// mask covers a file with /dev/null, and a directory with an empty file system:
// the one that the first directory got, since each costs kernel memory.
func mask(path string, empty *string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.Mount("dev/null", path, "", unix.MS_BIND, "")
	}
	if *empty != "" {
		return unix.Mount(*empty, path, "", unix.MS_BIND, "")
	}
	*empty = path
	return unix.Mount("mask", path, "tmpfs", nodevAll|readOnly, "size=4k,nr_inodes=2")
}
