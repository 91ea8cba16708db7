package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Verify reads an image completely and compares it with its digest. It fails
// with errs.Invalid when they differ. It needs no mount and no privilege.
func (s *Store) Verify(ctx context.Context, digest string) (Info, error) {
	info, err := s.Stat(digest)
	if err != nil {
		return Info{}, err
	}
	w := newTreeWriter(nowhere{}, s.limits)
	if err := walkImage(ctx, s.path(info), w); err != nil {
		return Info{}, errs.Wrap(err, errs.Invalid, "image %s cannot be read", short(digest))
	}
	got, err := w.finish(ctx)
	if err != nil {
		return Info{}, err
	}
	if got.Digest != digest {
		return Info{}, damaged(digest, "its content has the digest "+short(got.Digest))
	}
	info.Entries, info.SizeBytes = got.Entries, max(info.SizeBytes, w.bytes)
	return info, nil
}

// walkImage feeds every entry of an image file or directory to w.
func walkImage(ctx context.Context, path string, w *treeWriter) error {
	if !strings.HasSuffix(path, erofsSuffix) {
		return walkFS(ctx, os.DirFS(path), hostXattrs(path), w)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	img, err := erofs.Open(f)
	if err != nil {
		return err
	}
	return walkFS(ctx, img, nil, w)
}

// xattrReader returns the extended attributes of a path in a directory image.
type xattrReader func(path string) (map[string]string, error)

func walkFS(ctx context.Context, fsys fs.FS, xattrs xattrReader, w *treeWriter) error {
	return fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		e, err := describe(fsys, path, d, xattrs)
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		if !e.mode.IsRegular() {
			return w.put(ctx, e, nil)
		}
		f, err := fsys.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return w.put(ctx, e, f)
	})
}

// describe turns what a file system says of a path into an entry.
func describe(fsys fs.FS, path string, d fs.DirEntry, xattrs xattrReader) (entry, error) {
	fi, err := d.Info()
	if err != nil {
		return entry{}, err
	}
	e := entry{path: path, mode: fi.Mode().Type() | fi.Mode()&modeBits, mtime: fi.ModTime()}
	switch st := fi.Sys().(type) {
	case *erofs.Stat:
		// go-erofs leaves setuid and its kin out of what Mode returns.
		e.mode = st.Mode.Type() | st.Mode&modeBits
		e.uid, e.gid, e.xattrs = st.UID, st.GID, st.Xattrs
	case *syscall.Stat_t:
		e.uid, e.gid = st.Uid, st.Gid
	}
	switch {
	case e.mode.IsRegular():
		e.size = fi.Size()
	case e.mode.Type() == fs.ModeSymlink:
		e.mode = fs.ModeSymlink | fs.ModePerm
		if e.link, err = fs.ReadLink(fsys, path); err != nil {
			return entry{}, err
		}
	}
	if xattrs != nil {
		e.xattrs, err = xattrs(path)
	}
	return e, err
}

// hostXattrs reads attributes of files below a directory of the host.
func hostXattrs(base string) xattrReader {
	return func(path string) (map[string]string, error) {
		path = filepath.Join(base, path)
		names := make([]byte, maxXattrs)
		n, err := unix.Llistxattr(path, names)
		if n <= 0 || errors.Is(err, unix.ENOTSUP) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		found := map[string]string{}
		value := make([]byte, maxXattrs)
		for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
			if !keepXattr(name) {
				continue
			}
			v, err := unix.Lgetxattr(path, name, value)
			if err != nil {
				return nil, err
			}
			found[name] = string(value[:v])
		}
		return found, nil
	}
}

// nowhere is the sink of Verify: it reads everything and keeps nothing.
type nowhere struct{}

func (nowhere) put(e entry, body io.Reader) error {
	if !e.mode.IsRegular() {
		return nil
	}
	_, err := io.Copy(io.Discard, body)
	return err
}
func (nowhere) hardlink(entry, string) error { return nil }
func (nowhere) close() (int64, error)        { return 0, nil }
func (nowhere) abort()                       {}
