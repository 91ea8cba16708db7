package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// poolFile is the name of the file that holds the pool's file system.
const poolFile = "pool.btrfs"

// mountLoop mounts the pool's file and returns where.
func (p *Pool) mountLoop(ctx context.Context, o Options) (string, error) {
	file := filepath.Join(o.Dir, poolFile)
	if err := makePoolFile(ctx, file, o.SizeBytes); err != nil {
		return "", err
	}
	device, err := p.attachLoop(file)
	if err != nil {
		return "", err
	}
	mnt := filepath.Join(o.Dir, "mnt")
	if err := os.MkdirAll(mnt, 0o700); err != nil {
		return "", err
	}
	if isBtrfs(mnt) {
		return mnt, nil // mounted by an earlier Open in this mount namespace
	}
	// No atime and no forced commit per rename: what must survive a crash is
	// synced by those who promise it.
	if err := unix.Mount(device, mnt, "btrfs", unix.MS_NOATIME|unix.MS_NODEV, "discard=async,compress=no"); err != nil {
		return "", fmt.Errorf("mount %s: %w", file, err)
	}
	p.undo = append(p.undo, func() error { return unix.Unmount(mnt, unix.MNT_DETACH) })
	return mnt, nil
}

// makePoolFile makes the file with its file system, complete or not at all.
func makePoolFile(ctx context.Context, file string, size int64) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	if size == 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(filepath.Dir(file), &st); err != nil {
			return err
		}
		// Promising more than there is would let sandboxes fill the host, and
		// the file system in the file cannot bear that its own disk is full.
		size = int64(st.Bavail)*st.Bsize - reserve - besides
	}
	tmp := file + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := errors.Join(f.Truncate(max(size, 1<<30)), mkfs(ctx, tmp), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("make %s: %w", file, err)
	}
	return os.Rename(tmp, file)
}

func hasMkfs() bool {
	_, err := exec.LookPath("mkfs.btrfs")
	return err == nil
}

func mkfs(ctx context.Context, file string) error {
	path, err := exec.LookPath("mkfs.btrfs")
	if err != nil {
		return errs.New(errs.Unsupported, "mkfs.btrfs is missing").WithHint("install the package btrfs-progs")
	}
	out, err := exec.CommandContext(ctx, path, "--quiet", "--metadata", "single", "--nodiscard", file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.btrfs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// attachLoop returns a loop device for file. A file that living sandboxes still
// use has one already, and must get no second: two would corrupt it.
func (p *Pool) attachLoop(file string) (string, error) {
	if dev, ok := findLoop(file); ok {
		// Held open until Close: its last user may end at any moment, and the
		// device would be detached under the mount to come.
		p.undo = append(p.undo, dev.Close)
		return dev.Name(), nil
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for range 64 {
		dev, err := configureLoop(f)
		if errors.Is(err, unix.EBUSY) {
			continue // another program took the free device first
		}
		if err != nil {
			return "", fmt.Errorf("attach loop device: %w", err)
		}
		p.undo = append(p.undo, dev.Close)
		return dev.Name(), nil
	}
	return "", errors.New("attach loop device: every free one was taken by others")
}

// configureLoop attaches f to the next free device. Autoclear detaches it when
// its last user is gone, so a crash leaves no device behind. Direct I/O keeps
// the data from being cached twice.
func configureLoop(f *os.File) (*os.File, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, err
	}
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(f.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:len(config.Info.File_name)-1], "sandlot:"+f.Name())
	err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
	if errors.Is(err, unix.EINVAL) {
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR // the file system below has no direct I/O
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
	}
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return dev, nil
}

// findLoop looks for the device whose backing file is this very inode, and
// returns it open.
func findLoop(file string) (*os.File, bool) {
	var want unix.Stat_t
	if unix.Stat(file, &want) != nil {
		return nil, false
	}
	backings, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, b := range backings {
		dev, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(filepath.Dir(b))), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if backs(dev, want) {
			return dev, true
		}
		_ = dev.Close() // somebody else's
	}
	return nil, false
}

func backs(dev *os.File, want unix.Stat_t) bool {
	info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	return err == nil && info.Inode == want.Ino && info.Device == want.Dev
}
