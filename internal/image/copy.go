package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Import copies an image from the directory of another store, converting it to
// this store's format if the two differ. A copy in the same format is cloned
// where the file system can and checked cheaply; a converted one is checked
// completely. An image that the store has in its own format already is not
// copied again. It fails with errs.NotFound if the other store has no such image.
func (s *Store) Import(ctx context.Context, dir, digest string) (Info, error) {
	if info, err := s.Stat(digest); err == nil && info.Format == s.format {
		return info, nil
	}
	from := &Store{dir: dir}
	info, err := from.Stat(digest)
	if err != nil {
		return Info{}, err
	}
	path := from.path(info)
	if info.Format == EROFS && s.format == EROFS {
		return s.importFile(path, digest)
	}
	if info, err = s.write(ctx, digest, func(w *treeWriter) error { return walkImage(ctx, path, w) }); err != nil {
		return Info{}, fmt.Errorf("import image: %w", err)
	}
	return info, nil
}

// Export copies an image to the directory of another store, which it makes if
// it is missing. Images of the directory format are exported as EROFS files,
// which are one file and smaller.
func (s *Store) Export(ctx context.Context, digest, dir string) error {
	to, err := OpenWith(dir, s.log, Options{Format: EROFS, Limits: s.limits})
	if err != nil {
		return err
	}
	_, err = to.Import(ctx, s.dir, digest)
	return err
}

// importFile copies an EROFS file: by clone where the file system can, else by
// bytes. It is not hard-linked: a writer to the other store would change ours.
func (s *Store) importFile(path, digest string) (Info, error) {
	src, err := os.Open(path)
	if err != nil {
		return Info{}, fmt.Errorf("import image: %w", err)
	}
	defer src.Close()
	tmp, err := s.temp()
	if err != nil {
		return Info{}, err
	}
	defer tmp.discard()
	if err := unix.IoctlFileClone(int(tmp.file.Fd()), int(src.Fd())); err != nil {
		if _, err := io.Copy(tmp.file, src); err != nil {
			return Info{}, fmt.Errorf("import image: %w", full(err))
		}
	}
	if err := tmp.file.Sync(); err != nil {
		return Info{}, fmt.Errorf("import image: %w", full(err))
	}
	if err := s.commit(tmp, digest); err != nil {
		return Info{}, err
	}
	return s.Stat(digest)
}

// path returns where an image is kept.
func (s *Store) path(info Info) string {
	if info.Format == EROFS {
		return s.erofsPath(info.Digest)
	}
	return s.dirPath(info.Digest)
}

// full gives the errors of a full disk their kind.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.Wrap(err, errs.NoSpace, "the disk of the image store is full")
	}
	return err
}
