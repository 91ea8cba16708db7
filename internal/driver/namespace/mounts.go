package namespace

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/driver"
)

// mountRoot assembles the sandbox's root on the thread's mount namespace:
// every layer and the upper id-mapped into the sandbox's range, an overlay over
// them, and a /dev of its own.
func (d *Driver) mountRoot(spec driver.Spec) error {
	ns, err := d.userns.get(spec.UIDBase)
	if err != nil {
		return err
	}
	layers := append([]string{d.opts.AgentLayer}, spec.Layers...)
	lower := make([]string, len(layers))
	for i, dir := range layers {
		lower[i] = layerPoint(i)
		if err := os.MkdirAll(lower[i], 0o711); err != nil {
			return err
		}
		if err := mapMount(dir, lower[i], ns, unix.MOUNT_ATTR_RDONLY); err != nil {
			return fmt.Errorf("map layer %s: %w", dir, err)
		}
	}
	if err := mountUpper(spec, ns); err != nil {
		return err
	}
	if err := mountOverlay(spec, lower); err != nil {
		return err
	}
	return mountDev(filepath.Join(rootPoint, "dev"), spec.UIDBase)
}

// mountUpper maps the directory that holds both upper and work, which an
// overlay wants on one mount.
func mountUpper(spec driver.Spec, ns *os.File) error {
	if filepath.Dir(spec.Upper) != filepath.Dir(spec.Work) {
		return fmt.Errorf("upper %s and work %s lie in different directories", spec.Upper, spec.Work)
	}
	if err := mapMount(filepath.Dir(spec.Upper), upperPoint, ns, 0); err != nil {
		return fmt.Errorf("map upper: %w", err)
	}
	return nil
}

// mapMount mounts a copy of the tree at source on target, its ids mapped
// through the user namespace (mount_setattr(2)).
func mapMount(source, target string, userns *os.File, attrs uint64) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(fd)
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_IDMAP | attrs,
		Propagation: unix.MS_PRIVATE,
		Userns_fd:   uint64(userns.Fd()),
	})
	if err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// mountOverlay mounts the root. Overlay makes files in the work directory with
// the mounter's file system ids, and an id without a mapping turns the mount
// silently read-only: so it is mounted as the range's own root.
func mountOverlay(spec driver.Spec, lower []string) error {
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,xino=on", strings.Join(lower, ":"),
		filepath.Join(upperPoint, filepath.Base(spec.Upper)), filepath.Join(upperPoint, filepath.Base(spec.Work)))
	_ = unix.Setfsgid(int(spec.UIDBase))
	_ = unix.Setfsuid(int(spec.UIDBase))
	err := unix.Mount("sandlot", rootPoint, "overlay", 0, options)
	_ = unix.Setfsuid(0)
	_ = unix.Setfsgid(0)
	if err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(rootPoint, &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("overlay came up read-only: the upper's file system refuses mapped ids")
	}
	return nil
}

type device struct {
	name         string
	major, minor uint32
}

// devices are the nodes of every sandbox; none of them is a device of the host's.
var devices = []device{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

var devLinks = map[string]string{
	"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
	"stderr": "/proc/self/fd/2",
}

// mountDev mounts a small file system with the device nodes. They are made here
// because a user namespace may not make any.
func mountDev(dir string, owner uint32) error {
	if err := unix.Mount("dev", dir, "tmpfs", unix.MS_NOSUID, fmt.Sprintf("mode=755,size=64k,nr_inodes=64,uid=%d,gid=%d", owner, owner)); err != nil {
		return fmt.Errorf("mount dev: %w", err)
	}
	for _, n := range devices {
		path := filepath.Join(dir, n.name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return fmt.Errorf("make device %s: %w", n.name, err)
		}
		if err := own(path, owner, 0o666); err != nil {
			return err
		}
	}
	for name, target := range devLinks {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return makeDevDirs(dir, owner)
}

func makeDevDirs(dir string, owner uint32) error {
	for _, name := range []string{"pts", "shm"} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
		if err := own(path, owner, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// own gives path to the range's root; chmod because mknod and mkdir obey the
// server's umask.
func own(path string, owner uint32, mode os.FileMode) error {
	if err := os.Lchown(path, int(owner), int(owner)); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
