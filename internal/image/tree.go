package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// sink is where a tree is written: an EROFS file or a directory. The tree
// writer guarantees that parents come first, are directories, and that no path
// comes twice, but for directories, whose attributes may be put again.
type sink interface {
	// put adds an entry; body holds exactly e.size bytes of a regular file.
	put(e entry, body io.Reader) error
	// hardlink makes e.path another name of the file old.
	hardlink(e entry, old string) error
	// close completes the image on disk, durably, and returns its size in bytes.
	close() (int64, error)
	// abort frees what the sink holds, instead of close.
	abort()
}

// treeWriter checks entries, feeds them to a sink and keeps the manifest.
type treeWriter struct {
	sink     sink
	limits   Limits
	bytes    int64
	manifest manifest
	seen     map[string]entry
}

func newTreeWriter(s sink, limits Limits) *treeWriter {
	return &treeWriter{sink: s, limits: limits, seen: map[string]entry{}}
}

// put checks and writes one entry.
func (w *treeWriter) put(ctx context.Context, e entry, body io.Reader) error {
	if err := w.admit(ctx, e); err != nil {
		return err
	}
	content := newContentHash()
	if e.mode.IsRegular() {
		body = &exactReader{r: io.TeeReader(body, content), left: e.size, ctx: ctx}
	}
	if err := w.sink.put(e, body); err != nil {
		return fmt.Errorf("write %s: %w", e.path, err)
	}
	w.seen[e.path] = e
	w.manifest.add(e, content)
	return nil
}

// hardlink writes another name for a file that came before.
func (w *treeWriter) hardlink(ctx context.Context, name, old string) error {
	target, ok := w.seen[old]
	if !ok || target.mode.IsDir() {
		return hostile(name, fmt.Sprintf("it links to %q, which is no file before it", old))
	}
	e := target
	e.path = name
	if err := w.admit(ctx, e); err != nil {
		return err
	}
	if err := w.sink.hardlink(e, old); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	w.seen[name] = e
	w.manifest.addCopy(e, old)
	return nil
}

// admit checks one entry against the limits and what came before it.
func (w *treeWriter) admit(ctx context.Context, e entry) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := e.check(); err != nil {
		return err
	}
	if old, ok := w.seen[e.path]; ok && (!old.mode.IsDir() || !e.mode.IsDir()) {
		return hostile(e.path, "it comes twice")
	}
	if e.path == "." && !e.mode.IsDir() {
		return hostile(e.path, "the root must be a directory")
	}
	if len(w.seen) >= w.limits.Entries {
		return errs.New(errs.TooLarge, "the image has more than %d entries", w.limits.Entries)
	}
	if w.bytes += e.size; e.size < 0 || w.bytes > w.limits.Bytes {
		return errs.New(errs.TooLarge, "the image is larger than %d bytes", w.limits.Bytes)
	}
	return w.parents(ctx, e.path)
}

// parents makes the directories above name that the archive left out, and
// refuses a parent that is not a directory: following a link there would be the
// way out of the image.
func (w *treeWriter) parents(ctx context.Context, name string) error {
	if name == "." {
		return nil
	}
	dir := path.Dir(name)
	if p, ok := w.seen[dir]; ok {
		if !p.mode.IsDir() {
			return hostile(name, "what is above it is not a directory")
		}
		return nil
	}
	return w.put(ctx, entry{path: dir, mode: fs.ModeDir | 0o755, mtime: time.Unix(0, 0)}, nil)
}

// finish completes the image and returns its name and sizes.
func (w *treeWriter) finish(ctx context.Context) (Info, error) {
	if _, ok := w.seen["."]; !ok {
		root := entry{path: ".", mode: fs.ModeDir | 0o755, mtime: time.Unix(0, 0)}
		if err := w.put(ctx, root, nil); err != nil {
			return Info{}, err
		}
	}
	size, err := w.sink.close()
	if err != nil {
		return Info{}, fmt.Errorf("complete image: %w", err)
	}
	return Info{Digest: w.manifest.digest(), SizeBytes: size, Entries: len(w.seen)}, nil
}

// exactReader reads exactly left bytes: a shorter source is an error, as is a
// context that ends in the middle of a large file.
type exactReader struct {
	r    io.Reader
	left int64
	ctx  context.Context //nolint:containedctx // lives as long as one put
}

// Read implements io.Reader.
func (x *exactReader) Read(p []byte) (int, error) {
	if x.left == 0 {
		return 0, io.EOF
	}
	if x.ctx.Err() != nil {
		return 0, context.Cause(x.ctx)
	}
	n, err := x.r.Read(p[:min(int64(len(p)), x.left)])
	x.left -= int64(n)
	if errors.Is(err, io.EOF) && x.left > 0 {
		return n, io.ErrUnexpectedEOF
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
