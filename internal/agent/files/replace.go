package files

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/watch"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// TemporaryPrefix begins the names of files that are being written; when
// complete they are renamed to what was asked for.
const TemporaryPrefix = ".sandlot-upload-"

// A replacement is a file about to be written: beside its place, then renamed
// into it, so that others see the old file or the new one and never a part.
//
// Unnamed files (O_TMPFILE) would leave nothing behind when the agent is killed,
// but cannot replace a file without a name in between, and with the agent, which
// is process 1, ends the sandbox and its disk. Nothing is synced to the disk, for
// the same reason: a sandbox does not outlive its host's crash.
type replacement struct {
	s        *Service
	user     account.User
	metadata map[string]string
	// target is what the caller's path leads to.
	target string
	mode   uint32
	// kind begins the temporary's name.
	kind temporary
	// inPlace says that target takes writes but no replacement: a device, a named
	// pipe, a setting in /proc.
	inPlace bool
}

// prepare finds out what path leads to.
func (s *Service) prepare(path string, user account.User, metadata map[string]string) (*replacement, error) {
	r := &replacement{s: s, user: user, metadata: metadata, target: path, mode: 0o644, kind: newFile}
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if r.target, err = finalTarget(path); err != nil {
			return nil, err
		}
		err = unix.Lstat(r.target, &st)
	}
	switch {
	case errors.Is(err, unix.ENAMETOOLONG): // what is open below its directory would not hear of it
		return nil, wire.Errno(err, "write", path)
	case err != nil: // a new file, or an error that opening it brings up again
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return nil, errs.New(errs.Invalid, "%s is a directory", path)
	default:
		r.mode = st.Mode & 0o777 // new content has not earned a set-id bit
		r.kind = oldFile
		r.inPlace = st.Mode&unix.S_IFMT != unix.S_IFREG || synthetic(r.target)
	}
	return r, nil
}

// finalTarget follows links at path itself, also where they lead to nothing yet.
func finalTarget(path string) (string, error) {
	for range 40 { // the kernel's limit
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil //nolint:nilerr // not a link: this is the file
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(path), link)
		}
		path = filepath.Clean(link)
	}
	return "", wire.Errno(syscall.ELOOP, "write", path)
}

// write stores what fill puts into the file it is given.
func (r *replacement) write(fill func(*os.File) error) (err error) {
	if r.inPlace {
		return r.writeInto(fill)
	}
	dir, err := r.openDir()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	f, err := r.create(dir)
	if err != nil {
		return err
	}
	err = r.complete(f, fill)
	if err == nil {
		err = r.install(dir, f)
	}
	if closeErr := f.Close(); err == nil {
		err = wire.Errno(closeErr, "write", r.target)
	}
	if err != nil {
		// The error to report is the first one. After install this name is free.
		_ = unix.Unlinkat(dir, f.Name(), 0)
	}
	return err
}

// openDir opens the target's directory, and makes what is missing of it. What is
// made beside the target is named relative to it: as a path it may be too long
// where the target's is not.
func (r *replacement) openDir() (int, error) {
	path := filepath.Dir(r.target)
	dir, err := openAt(unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		if err := r.s.ensureDir(path, r.user); err != nil {
			return -1, err
		}
		dir, err = openAt(unix.AT_FDCWD, path, unix.O_PATH|unix.O_DIRECTORY)
	}
	return dir, wire.Errno(err, "write", r.target)
}

// create makes a file in the directory dir, whose name is relative to it.
func (r *replacement) create(dir int) (*os.File, error) {
	name := r.kind.name("")
	fd, err := openAt(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, wire.Errno(err, "write", r.target)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openAt is openat(2) with the rights of a new file for its owner only.
func openAt(dir int, path string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, path, flags|unix.O_CLOEXEC, 0o600)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// complete gives an open new file its content, owner, mode and metadata.
func (r *replacement) complete(f *os.File, fill func(*os.File) error) error {
	if err := fill(f); err != nil {
		return err
	}
	if r.s.opts.Chown {
		if err := f.Chown(int(r.user.UID), int(r.user.GID)); err != nil {
			return wire.Errno(err, "set owner of", r.target)
		}
	}
	// Past the umask.
	if err := unix.Fchmod(int(f.Fd()), r.mode); err != nil {
		return wire.Errno(err, "set mode of", r.target)
	}
	return writeMetadata(int(f.Fd()), r.metadata, r.target)
}

// install puts the complete file f of the directory dir in its place.
func (r *replacement) install(dir int, f *os.File) error {
	err := unix.Renameat(dir, f.Name(), dir, filepath.Base(r.target))
	if !errors.Is(err, unix.EBUSY) {
		return wire.Errno(err, "write", r.target)
	}
	// Something is mounted on the target itself: only its content can be changed.
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return wire.Errno(err, "write", r.target)
	}
	// To the end, whoever is gone: half of it would be worse than either.
	err = r.writeInto(func(to *os.File) error { return copyFile(context.Background(), to, f, r.target) })
	return errors.Join(err, unix.Unlinkat(dir, f.Name(), 0))
}

// writeInto writes to a file where it is.
func (r *replacement) writeInto(fill func(*os.File) error) error {
	if len(r.metadata) > 0 {
		return errs.New(errs.Unsupported, "%s keeps no metadata; write without X-Metadata headers", r.target)
	}
	f, err := os.OpenFile(r.target, os.O_WRONLY|os.O_TRUNC|unix.O_NONBLOCK, 0)
	if err != nil {
		return wire.Errno(err, "write", r.target)
	}
	err = fill(f)
	return errors.Join(err, f.Close())
}

// copyChunk is how much is copied between two looks at whether somebody still
// wants it, in bytes.
const copyChunk = 64 << 20

// copyFile appends what is left of in to out, in the kernel where it can, which
// on the sandbox's own disk shares the blocks. It stops soon after ctx ends.
func copyFile(ctx context.Context, out, in *os.File, path string) error {
	for {
		if err := ctx.Err(); err != nil {
			return wire.Errno(err, "write", path)
		}
		n, err := io.Copy(out, io.LimitReader(in, copyChunk))
		if err != nil || n == 0 {
			return wire.Errno(err, "write", path)
		}
	}
}

// synthetic reports whether path lies on one of the kernel's own file systems,
// whose files have contents but neither lengths nor room for others beside them.
func synthetic(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && syntheticType(st.Type)
}

func syntheticType(magic int64) bool {
	switch magic {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC:
		return true
	}
	return false
}

// A temporary is what TemporaryPrefix is followed by: it tells those who watch
// the directory what its renaming means, since they are told of nothing else.
type temporary string

const (
	newFile   temporary = "new-"
	oldFile   temporary = "old-"
	movedTree temporary = "move-"
)

// name returns a new name in dir.
func (t temporary) name(dir string) string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	return filepath.Join(dir, TemporaryPrefix+string(t)+hex.EncodeToString(b[:]))
}

// meaning returns what the renaming of a file with this name means. For a file
// written anew it is what the writing in place would have been.
func meaning(name string) watch.Naming {
	kind, ours := strings.CutPrefix(name, TemporaryPrefix)
	switch {
	case !ours:
		return watch.Ordinary
	case strings.HasPrefix(kind, string(newFile)):
		return watch.Writing
	case strings.HasPrefix(kind, string(oldFile)):
		return watch.Rewriting
	default:
		return watch.Moving
	}
}
