// Package image is the content store of root file systems. It owns the
// directory images/ of a data directory: it turns a tar stream into one
// immutable image, names the image by its content, and makes it readable at a
// directory of the host.
//
// An image is kept as one EROFS file, which the kernel mounts straight from the
// file in microseconds and which all sandboxes share through one page cache.
// Where the kernel cannot do that (before Linux 6.12, or built without
// CONFIG_EROFS_FS_BACKED_BY_FILE) it is kept as a plain directory with the
// same content. The name is the same in both formats, so an image can move
// between hosts and be converted.
//
// Package image is mechanism (L1): template and node use it, and it imports
// only errs.
package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Format is how images are kept on disk.
type Format string

// The formats. Auto lets the store probe the kernel.
const (
	Auto      Format = ""
	EROFS     Format = "erofs"
	Directory Format = "directory"
)

const (
	erofsSuffix = ".erofs"
	mountSuffix = ".mnt"
	tempPrefix  = ".tmp-"
)

// Options are the optional settings of a store. The zero value is useful.
type Options struct {
	// Format overrides the probe; tests use it.
	Format Format
	// Limits bound what one image may hold; zero fields mean DefaultLimits.
	Limits Limits
}

// Store keeps images in one directory. It is safe for concurrent use. Several
// processes may open the same directory: what one is still writing is locked,
// and the others leave it alone.
type Store struct {
	dir      string
	log      *slog.Logger
	format   Format
	limits   Limits
	volatile bool // images need not outlive a crash: fuzzing

	mu     sync.Mutex
	mounts map[string]bool // by digest: what this store mounted
}

// Info describes an image in the store.
type Info struct {
	// Digest names the image: 64 hexadecimal digits, the SHA-256 of its
	// manifest (every path with its type, owner, mode, time, link target,
	// extended attributes and content).
	Digest string
	Format Format
	// SizeBytes is the size of the EROFS file, or the sum of the sizes of the
	// files in a directory.
	SizeBytes int64
	// Entries counts files, directories and links.
	Entries int
}

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Open opens the store in dir, creating it with mode 0700 if it is missing,
// and removes what interrupted writers left there.
func Open(dir string, log *slog.Logger) (*Store, error) {
	return OpenWith(dir, log, Options{})
}

// OpenWith is Open with options.
func OpenWith(dir string, log *slog.Logger, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find image store: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make image store: %w", err)
	}
	s := &Store{
		dir: dir, log: log, format: opts.Format,
		limits: opts.Limits.orDefault(), mounts: map[string]bool{},
	}
	if s.format == Auto {
		s.format = s.probe()
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("clean image store: %w", err)
	}
	return s, nil
}

// probe tries what the kernel can do and picks the format.
func (s *Store) probe() Format {
	err := ProbeEROFS(s.dir)
	if err == nil {
		return EROFS
	}
	s.log.Info("images are kept as directories", "reason", err.Error())
	return Directory
}

// Format returns how this store writes images.
func (s *Store) Format() Format { return s.format }

// sweep removes the temporary files of writers that no longer live.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := removeUnlocked(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeUnlocked removes path unless a living writer holds its lock.
func removeUnlocked(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	return os.RemoveAll(path)
}

// Has reports whether the store holds the image.
func (s *Store) Has(digest string) bool {
	_, err := s.Stat(digest)
	return err == nil
}

// Stat describes an image after a cheap check that it is whole: the size and
// header of an EROFS file, the presence of a directory. It fails with
// errs.NotFound for an unknown image and errs.Invalid for a damaged one.
func (s *Store) Stat(digest string) (Info, error) {
	if !digestPattern.MatchString(digest) {
		return Info{}, errs.New(errs.Invalid, "%q is not the name of an image", digest)
	}
	if fi, err := os.Lstat(s.dirPath(digest)); err == nil && fi.IsDir() {
		return Info{Digest: digest, Format: Directory}, nil
	}
	path := s.erofsPath(digest)
	if _, err := os.Lstat(path); err == nil {
		return statEROFS(path, digest)
	}
	return Info{}, errs.New(errs.NotFound, "image %s is not in the store", short(digest)).
		WithHint("build the template that uses it again")
}

// List returns the digests of all images, sorted.
func (s *Store) List() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var all []string
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), erofsSuffix)
		if digestPattern.MatchString(name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Remove unmounts and deletes an image. Removing a missing one is no error.
// Sandboxes that run on it keep an EROFS image's content, but not that of a
// directory: the caller makes sure that none is left.
func (s *Store) Remove(ctx context.Context, digest string) error {
	if !digestPattern.MatchString(digest) {
		return errs.New(errs.Invalid, "%q is not the name of an image", digest)
	}
	if err := s.Unmount(ctx, digest); err != nil {
		return err
	}
	for _, path := range []string{s.mountPath(digest), s.erofsPath(digest), s.dirPath(digest)} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove image: %w", err)
		}
	}
	return nil
}

func (s *Store) erofsPath(digest string) string { return filepath.Join(s.dir, digest+erofsSuffix) }
func (s *Store) dirPath(digest string) string   { return filepath.Join(s.dir, digest) }
func (s *Store) mountPath(digest string) string { return filepath.Join(s.dir, digest+mountSuffix) }

// short is a digest as people read it.
func short(digest string) string { return digest[:min(12, len(digest))] }
