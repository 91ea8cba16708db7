// Package rootfs owns what sandboxes write: one upper directory per sandbox,
// with a limit on its size where the file system can enforce one.
//
// The uppers are subvolumes of a btrfs file system: the data directory's own if
// it is btrfs, otherwise a sparse file with one inside, mounted through a loop
// device. Where btrfs is missing they are plain directories, and Enforced says
// that the limit is not kept. Node imports it.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Upper is one sandbox's own directory and the two parts an overlay needs.
type Upper struct {
	Dir, Up, Work string
}

// Pool holds the uppers of one data directory. It is safe for concurrent use,
// except Open and Close.
type Pool struct {
	dir      string // where the uppers are
	backend  backend
	undo     []func() error
	logger   *slog.Logger
	reserved int64 // free bytes below which Create refuses
}

// backend is how an upper comes and goes.
type backend interface {
	create(path string, limit int64) error
	remove(path string) error
	// usage returns the bytes charged to an upper, -1 if unknown.
	usage(path string) int64
	describe() string
	enforced() bool
}

// Options say where and how large.
type Options struct {
	// Dir is the pool's directory, made if missing.
	Dir string
	// SizeBytes is the largest the pool's file may grow; 0 takes what is free
	// now on the file system below it, less a reserve and what images need. An existing pool keeps
	// its size.
	SizeBytes int64
	// Backend forces "btrfs", "loop" or "directory"; empty chooses.
	Backend string
	Logger  *slog.Logger
}

const (
	// reserve is what checkSpace keeps free.
	reserve = 256 << 20
	// besides is what a new pool leaves to the rest of the data directory: images,
	// of which the first comes after the pool, and the registry.
	besides = 1 << 30
)

// Open makes the pool usable. Mounts it needs are made in the caller's mount
// namespace and undone by Close.
func Open(ctx context.Context, o Options) (*Pool, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	p := &Pool{logger: o.Logger, reserved: reserve}
	kind := o.Backend
	if kind == "" {
		kind = choose(o.Dir)
	}
	if err := p.open(ctx, kind, o); err != nil {
		return nil, errors.Join(fmt.Errorf("open pool (%s): %w", kind, err), p.Close())
	}
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// choose picks the best backend this host has. A pool that exists as a file
// stays one, even where it can no longer be mounted: what lies in it must not
// silently be left behind.
func choose(dir string) string {
	switch {
	case isFile(filepath.Join(dir, poolFile)):
		return "loop"
	case isBtrfs(dir):
		return "btrfs"
	case hasBtrfs() && hasMkfs():
		return "loop"
	}
	return "directory"
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func (p *Pool) open(ctx context.Context, kind string, o Options) error {
	switch kind {
	case "directory":
		p.dir, p.backend = filepath.Join(o.Dir, "uppers"), directories{}
		return nil
	case "btrfs":
		p.dir = filepath.Join(o.Dir, "uppers")
	case "loop":
		mnt, err := p.mountLoop(ctx, o)
		if err != nil {
			return err
		}
		p.dir = filepath.Join(mnt, "uppers")
	default:
		return errs.New(errs.Invalid, "unknown pool backend %q; use btrfs, loop or directory", kind)
	}
	groups, err := enableQuota(filepath.Dir(p.dir))
	if err != nil {
		p.logger.WarnContext(ctx, "disk limits are not enforced", "error", err)
	}
	p.backend = &subvolumes{groups: groups, loop: kind == "loop"}
	return nil
}

// Create makes the upper of a sandbox that may grow to limit bytes.
func (p *Pool) Create(id sandbox.ID, limit int64) (Upper, error) {
	u := p.upper(id)
	if err := p.checkSpace(); err != nil {
		return u, err
	}
	if err := p.backend.create(u.Dir, limit); err != nil {
		return u, classify(fmt.Errorf("make upper of %s: %w", id, err))
	}
	for _, dir := range []string{u.Up, u.Work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return u, errors.Join(classify(err), p.Delete(id))
		}
	}
	return u, nil
}

func (p *Pool) upper(id sandbox.ID) Upper {
	dir := filepath.Join(p.dir, string(id))
	return Upper{Dir: dir, Up: filepath.Join(dir, "up"), Work: filepath.Join(dir, "work")}
}

// checkSpace keeps a reserve: a full disk must stop new sandboxes before it
// stops the server.
func (p *Pool) checkSpace() error {
	for _, dir := range []string{p.dir, filepath.Dir(filepath.Dir(p.dir))} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return fmt.Errorf("measure free space: %w", err)
		}
		if free := int64(st.Bavail) * st.Bsize; free < p.reserved {
			return errs.New(errs.NoSpace, "the disk of the sandboxes is full: %d MiB are free, %d MiB are kept in reserve; free some space below the data directory", free>>20, p.reserved>>20)
		}
	}
	return nil
}

func classify(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errs.Wrap(err, errs.NoSpace, "the disk of the sandboxes is full; free some space below the data directory")
	}
	return err
}

// Delete removes an upper with everything in it. It is idempotent.
func (p *Pool) Delete(id sandbox.ID) error {
	if !id.Valid() {
		return errs.New(errs.Invalid, "malformed sandbox id %q", string(id))
	}
	err := p.backend.remove(p.upper(id).Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove upper of %s: %w", id, err)
	}
	return nil
}

// List returns the sandboxes that have an upper.
func (p *Pool) List() ([]sandbox.ID, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return nil, fmt.Errorf("list uppers: %w", err)
	}
	var ids []sandbox.ID
	for _, e := range entries {
		if id := sandbox.ID(e.Name()); id.Valid() {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Usage returns the bytes charged to this sandbox's upper, -1 if the backend
// does not count them or there is no such upper.
func (p *Pool) Usage(id sandbox.ID) int64 { return p.backend.usage(p.upper(id).Dir) }

// Describe says in a few words what the pool is.
func (p *Pool) Describe() string { return p.backend.describe() }

// Enforced reports whether disk limits are kept.
func (p *Pool) Enforced() bool { return p.backend.enforced() }

// Close undoes Open's mounts. Living sandboxes keep using theirs.
func (p *Pool) Close() error {
	var all error
	for _, undo := range slices.Backward(p.undo) {
		all = errors.Join(all, undo())
	}
	p.undo = nil
	return all
}

// directories is the backend where btrfs is missing.
type directories struct{}

func (directories) create(path string, _ int64) error { return os.Mkdir(path, 0o755) }
func (directories) remove(path string) error          { return os.RemoveAll(path) }
func (directories) usage(string) int64                { return -1 }
func (directories) describe() string                  { return "plain directories" }
func (directories) enforced() bool                    { return false }
