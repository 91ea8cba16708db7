package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// rootName is the directory inside a temporary directory that becomes the image.
const rootName = "root"

// dirSink unpacks an image into a plain directory. All paths go through
// os.Root, which follows no link out of the directory; the tree writer has
// already refused paths that pass a link.
type dirSink struct {
	root  *os.Root
	base  string
	dirs  map[string]entry // attributes set last: writing into a directory changes its time
	bytes int64
	sync  bool
}

func newDirSink(tmp string, sync bool) (*dirSink, error) {
	base := filepath.Join(tmp, rootName)
	if err := os.Mkdir(base, 0o755); err != nil {
		return nil, fmt.Errorf("make image directory: %w", err)
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return nil, fmt.Errorf("open image directory: %w", err)
	}
	return &dirSink{root: root, base: base, dirs: map[string]entry{}, sync: sync}, nil
}

func (s *dirSink) put(e entry, body io.Reader) error {
	switch e.mode.Type() {
	case fs.ModeDir:
		s.dirs[e.path] = e
		if err := s.root.Mkdir(e.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	case fs.ModeSymlink:
		if err := s.root.Symlink(e.link, e.path); err != nil {
			return err
		}
	case fs.ModeNamedPipe:
		if err := unix.Mkfifo(filepath.Join(s.base, e.path), 0o600); err != nil {
			return err
		}
	default:
		if err := s.regular(e.path, body); err != nil {
			return err
		}
		s.bytes += e.size
	}
	return s.attributes(e)
}

func (s *dirSink) regular(path string, body io.Reader) error {
	f, err := s.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, body); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// attributes sets owner, attributes, mode and time in the order that keeps
// them: a change of owner clears setuid and file capabilities.
func (s *dirSink) attributes(e entry) error {
	if err := s.chown(e); err != nil {
		return err
	}
	path := filepath.Join(s.base, e.path)
	for k, v := range e.xattrs {
		if err := unix.Lsetxattr(path, k, []byte(v), 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", k, err)
		}
	}
	if e.mode.Type() != fs.ModeSymlink {
		if err := s.root.Chmod(e.path, e.mode&modeBits); err != nil {
			return err
		}
	}
	return setTime(path, e.mtime)
}

// chown sets the owner. Without privilege only one's own ids can be set, which
// is enough for archives made by the same user.
func (s *dirSink) chown(e entry) error {
	if int(e.uid) == os.Geteuid() && int(e.gid) == os.Getegid() {
		return nil
	}
	return s.root.Lchown(e.path, int(e.uid), int(e.gid))
}

func setTime(path string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func (s *dirSink) hardlink(e entry, old string) error { return s.root.Link(old, e.path) }

func (s *dirSink) close() (int64, error) {
	defer s.root.Close()
	names := slices.Sorted(maps.Keys(s.dirs))
	for _, name := range slices.Backward(names) { // children first: a mode may lock them away
		if err := s.attributes(s.dirs[name]); err != nil {
			return 0, fmt.Errorf("directory %s: %w", name, err)
		}
	}
	if !s.sync {
		return s.bytes, nil
	}
	d, err := os.Open(s.base)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	return s.bytes, unix.Syncfs(int(d.Fd()))
}

func (s *dirSink) abort() { _ = s.root.Close() }
