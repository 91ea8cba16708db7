package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
)

// paxXattr is how PAX archives (GNU tar, mmdebstrap) name extended attributes.
const paxXattr = "SCHILY.xattr."

// WriteTar reads an uncompressed tar stream to its end and keeps it as an
// image. Owners, modes with setuid, times, symbolic and hard links, user
// attributes and file capabilities are kept; everything below dev/ is left out,
// since a sandbox mounts its own. The image appears under its digest whole or
// not at all. An archive that is hostile or cannot be kept fails with
// errs.Invalid or errs.TooLarge.
//
// WriteTar blocks until r ends; cancelling ctx makes it give up at the next read.
func (s *Store) WriteTar(ctx context.Context, r io.Reader) (Info, error) {
	return s.write(ctx, "", func(w *treeWriter) error { return readTar(ctx, r, w) })
}

// write makes an image of what fill puts into the tree, in the store's format.
// Unless want is empty, an image with another digest is refused.
func (s *Store) write(ctx context.Context, want string, fill func(*treeWriter) error) (Info, error) {
	tmp, err := s.temp()
	if err != nil {
		return Info{}, err
	}
	defer tmp.discard()
	sink, err := tmp.sink()
	if err != nil {
		return Info{}, err
	}
	w := newTreeWriter(sink, s.limits)
	if err := fill(w); err != nil {
		sink.abort()
		return Info{}, full(err)
	}
	info, err := w.finish(ctx)
	if err != nil {
		return Info{}, full(err)
	}
	if want != "" && info.Digest != want {
		return Info{}, damaged(want, "its content has the digest "+short(info.Digest))
	}
	info.Format = s.format
	return info, s.commit(tmp, info.Digest)
}

// readTar feeds the entries of a tar stream to w and drains what follows them,
// so that the writer of a pipe is not cut off.
func readTar(ctx context.Context, r io.Reader, w *treeWriter) error {
	buffered := bufio.NewReaderSize(r, 1<<20)
	tr := tar.NewReader(buffered)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := putHeader(ctx, w, h, tr); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, buffered); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	return nil
}

func putHeader(ctx context.Context, w *treeWriter, h *tar.Header, body io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, "dev/") {
		return nil
	}
	if h.Typeflag == tar.TypeLink {
		old, err := cleanName(h.Linkname)
		if err != nil {
			return err
		}
		return w.hardlink(ctx, name, old)
	}
	e, err := headerEntry(name, h)
	if err != nil {
		return err
	}
	return w.put(ctx, e, body)
}

func headerEntry(name string, h *tar.Header) (entry, error) {
	if h.Uid < 0 || h.Uid > maxID || h.Gid < 0 || h.Gid > maxID {
		return entry{}, hostile(name, fmt.Sprintf("its owner %d:%d is outside the 65,536 ids of a sandbox", h.Uid, h.Gid))
	}
	mode := h.FileInfo().Mode()
	e := entry{
		path: name, mode: mode.Type() | mode&modeBits,
		uid: uint32(h.Uid), gid: uint32(h.Gid), mtime: h.ModTime,
	}
	switch {
	case e.mode.IsRegular():
		e.size = h.Size
	case e.mode.Type() == fs.ModeSymlink:
		e.mode, e.link = fs.ModeSymlink|fs.ModePerm, h.Linkname
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxXattr); ok && keepXattr(name) {
			if e.xattrs == nil {
				e.xattrs = map[string]string{}
			}
			e.xattrs[name] = v
		}
	}
	return e, nil
}

// temp is a locked temporary file or directory of the store.
type temp struct {
	path string
	file *os.File // holds the lock; for EROFS also the image being written
	s    *Store
}

func (s *Store) temp() (*temp, error) {
	t := &temp{s: s}
	var err error
	if s.format == Directory {
		if t.path, err = os.MkdirTemp(s.dir, tempPrefix); err == nil {
			t.file, err = os.Open(t.path)
		}
	} else if t.file, err = os.CreateTemp(s.dir, tempPrefix); err == nil {
		t.path = t.file.Name()
	}
	if err == nil {
		err = unix.Flock(int(t.file.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.discard()
		return nil, fmt.Errorf("make temporary image: %w", err)
	}
	return t, nil
}

// sink opens what writes into the temporary file or directory.
func (t *temp) sink() (sink, error) {
	if t.s.format == Directory {
		return newDirSink(t.path, !t.s.volatile)
	}
	return newEROFSSink(t.file, t.s.dir, !t.s.volatile), nil
}

// discard removes what was not committed.
func (t *temp) discard() {
	if t.path != "" {
		_ = os.RemoveAll(t.path)
	}
	if t.file != nil {
		_ = t.file.Close()
	}
}

// commit gives the temporary image its name. An image that exists already is
// the same image, so the new copy is dropped.
func (s *Store) commit(t *temp, digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, err := s.Stat(digest); err == nil && old.Format == s.format {
		return nil
	}
	from, to := t.path, s.erofsPath(digest)
	if s.format == Directory {
		from, to = filepath.Join(t.path, rootName), s.dirPath(digest)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("name image: %w", err)
	}
	if s.format == EROFS {
		t.path = ""
	}
	if s.volatile {
		return nil
	}
	if err := atomicfile.SyncDir(s.dir); err != nil {
		return fmt.Errorf("sync image store: %w", err)
	}
	return nil
}
