package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/erofs/go-erofs"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// erofsSink writes an EROFS image. Contents are spooled in an unlinked
// temporary file and laid out when the sink is closed, without a copy through
// memory. EROFS as written here has no hard links: a second name is a second copy.
type erofsSink struct {
	file    *os.File
	w       *erofs.Writer
	sync    bool
	aborted bool
}

func newEROFSSink(f *os.File, spoolDir string, sync bool) *erofsSink {
	s := &erofsSink{file: f, sync: sync}
	// A fixed build time makes equal trees equal files.
	s.w = erofs.Create(s, erofs.WithTempDir(spoolDir), erofs.WithBuildTime(0, 0))
	return s
}

// Write implements io.Writer for the EROFS writer.
func (s *erofsSink) Write(p []byte) (int, error) {
	if s.aborted {
		return 0, errAborted
	}
	return s.file.Write(p)
}

// Seek implements io.Seeker for the EROFS writer.
func (s *erofsSink) Seek(offset int64, whence int) (int64, error) {
	return s.file.Seek(offset, whence)
}

var errAborted = errors.New("image given up")

func (s *erofsSink) put(e entry, body io.Reader) error {
	if err := s.create(e, body); err != nil {
		return err
	}
	return s.attributes(e)
}

func (s *erofsSink) create(e entry, body io.Reader) error {
	switch e.mode.Type() {
	case fs.ModeDir:
		if _, err := s.w.Stat(e.path); err == nil {
			return nil
		}
		return s.w.Mkdir(e.path, e.mode.Perm())
	case fs.ModeSymlink:
		return s.w.Symlink(e.link, e.path)
	case fs.ModeNamedPipe:
		return s.w.Mknod(e.path, fifoType, 0)
	default:
		return s.regular(e.path, body)
	}
}

// fifoType is S_IFIFO.
const fifoType = 0o010000

func (s *erofsSink) regular(path string, body io.Reader) error {
	f, err := s.w.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, body); err != nil {
		return err
	}
	return f.Close()
}

func (s *erofsSink) attributes(e entry) error {
	if err := s.w.Chmod(e.path, e.mode); err != nil {
		return err
	}
	if err := s.w.Chown(e.path, int(e.uid), int(e.gid)); err != nil {
		return err
	}
	if err := s.w.Chtimes(e.path, e.mtime, e.mtime); err != nil {
		return err
	}
	for k, v := range e.xattrs {
		if err := s.w.Setxattr(e.path, k, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *erofsSink) hardlink(e entry, old string) error {
	src, err := s.w.Open(old)
	if err != nil {
		return err
	}
	defer src.Close()
	return s.put(e, src)
}

func (s *erofsSink) close() (int64, error) {
	if err := s.w.Close(); err != nil {
		return 0, err
	}
	if s.sync {
		if err := s.file.Sync(); err != nil {
			return 0, err
		}
	}
	fi, err := s.file.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// abort frees the spool. Only closing the writer does that, and closing writes
// the image, so its first write is made to fail.
func (s *erofsSink) abort() {
	s.aborted = true
	_ = s.w.Close()
}

// Where the fields used below are in an EROFS superblock (fs/erofs/erofs_fs.h).
const (
	superOffset  = 1024
	superMagic   = 0xE0F5E1E2
	superBits    = 12 // log2 of the block size
	superBlocks  = 36 // number of blocks
	superMinimum = 64
)

// statEROFS checks the header and the size of an EROFS file.
func statEROFS(path, digest string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, fmt.Errorf("open image: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("open image: %w", err)
	}
	super := make([]byte, superMinimum)
	if _, err := f.ReadAt(super, superOffset); err != nil {
		return Info{}, damaged(digest, "its header is cut off")
	}
	if binary.LittleEndian.Uint32(super) != superMagic {
		return Info{}, damaged(digest, "its header is not that of an EROFS image")
	}
	want := int64(binary.LittleEndian.Uint32(super[superBlocks:])) << (super[superBits] & 31)
	if fi.Size() < want {
		return Info{}, damaged(digest, fmt.Sprintf("it has %d bytes of %d", fi.Size(), want))
	}
	return Info{Digest: digest, Format: EROFS, SizeBytes: fi.Size()}, nil
}

func damaged(digest, why string) error {
	return errs.New(errs.Invalid, "image %s is damaged: %s", short(digest), why).
		WithHint("remove the template that uses it and build it again")
}
