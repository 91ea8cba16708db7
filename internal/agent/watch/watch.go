// Package watch tells what changes in directories, alone or with all below
// them. It owns the agent's one inotify instance, which all watchers share
// because the kernel counts instances tightly, and knows nothing of the wire.
// Only internal/agent/files imports it.
//
// The kernel watches single directories by inode. A Hub keeps, for each watcher,
// the tree of directories as the events handled so far have made it, and follows
// it: new directories are watched and then read, because something may have been
// made in them before. The file system is always ahead of the events, so a path
// may lead elsewhere than an event meant. Each directory is therefore opened
// through its parent, the parent is compared with the inode watched as such
// before, and what cannot be told yet is left for the event that must follow.
package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// MaxWatchers bounds the watchers of one Hub.
	MaxWatchers = 128
	// maxWatcherBytes bounds the events that wait for one reader, and maxHubBytes
	// those that wait for all of them; an event costs its name and eventBytes.
	maxWatcherBytes = 4 << 20
	maxHubBytes     = 16 << 20
	eventBytes      = 48
	// maxDirs bounds the directories that all watchers of one Hub watch. Each
	// costs the agent about 200 bytes (BenchmarkTree), so that all are 20 MB, and
	// the kernel a kilobyte or two for the inode it must keep.
	maxDirs = 100_000
	// relieveEvery is after how many directories the reading of a new watcher's
	// tree pauses to serve the others.
	relieveEvery = 64
)

// Naming says what the renaming of a file means, by its old name.
type Naming int

// Ordinary names are reported. The others belong to files under way to their
// final name, and none of their events is: Moving reports only that the final
// name was created, Writing that it was created and written to, Rewriting that
// it was written to.
const (
	Ordinary Naming = iota
	Moving
	Writing
	Rewriting
)

// Hub watches directories. It is safe for concurrent use.
//
// Reading a tree takes long. Who reads one, or follows events, holds turn from
// the beginning to the end, and mu too, but lets mu go now and then (pause): a
// watcher may end meanwhile, and with the last one the instance, but no event is
// followed, nothing is added, and no instance made.
type Hub struct {
	turn chan struct{} // holds a token while somebody has it; taken before mu
	// most is maxDirs, but for tests.
	most   int
	naming func(name string) Naming
	wg     sync.WaitGroup
	// waiting is the cost of all events not taken yet.
	waiting atomic.Int64

	mu       sync.Mutex
	closed   bool
	watchers map[*Watcher]struct{}
	// in is nil while nobody watches.
	in *instance
}

// New returns a Hub that watches nothing and costs nothing. naming classifies
// file names; it must be quick.
func New(naming func(name string) Naming) *Hub {
	return &Hub{naming: naming, watchers: map[*Watcher]struct{}{}, turn: make(chan struct{}, 1), most: maxDirs}
}

// Request says what to watch.
type Request struct {
	// Path is an absolute path; links in it are followed.
	Path string
	// Recursive includes all directories below.
	Recursive bool
	// Network allows network file systems, where only changes made by this
	// machine are seen.
	Network bool
}

// Watch begins to watch a directory. When it returns, every later change is
// reported, and none from before. It blocks while the tree is read.
func (h *Hub) Watch(ctx context.Context, req Request) (*Watcher, error) {
	path, err := filepath.EvalSymlinks(req.Path)
	if err != nil {
		return nil, err
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return nil, errSlow(ctx.Err())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errs.New(errs.Unavailable, "the agent is shutting down")
	}
	if len(h.watchers) >= MaxWatchers {
		return nil, errs.New(errs.Exhausted, "the sandbox has %d watchers already; stop one first", MaxWatchers)
	}
	if err := h.open(); err != nil {
		return nil, err
	}
	w := &Watcher{hub: h, path: path, recursive: req.Recursive, network: req.Network, silent: true, given: ctx.Err}
	w.queue.ready = make(chan struct{}, 1)
	h.watchers[w] = struct{}{}
	if err := h.begin(w); err != nil {
		h.end(w, err)
		return nil, err
	}
	return w, nil
}

// begin watches w's directory and those below, and forgets what happens
// meanwhile. The caller holds turn and mu.
func (h *Hub) begin(w *Watcher) error {
	f, err := openDir(unix.AT_FDCWD, w.path)
	if err != nil {
		return &os.PathError{Op: "watch", Path: w.path, Err: err}
	}
	err = h.root(w, f)
	_ = f.Close()
	if err != nil {
		return err
	}
	for n, todo := 0, []*dir{w.root}; w.recursive && len(todo) > 0; n++ {
		d := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], h.read(d)...)
		if !w.ended && n%relieveEvery == relieveEvery-1 {
			h.pump(h.in, h.horizon())
		}
		if w.ended {
			return w.gone()
		}
	}
	h.pump(h.in, h.horizon())
	if w.ended {
		return w.gone()
	}
	w.silent, w.given = false, nil
	return nil
}

// pause lets those who wait for mu have it, and reports whether w goes on. The
// caller holds turn and mu.
func (h *Hub) pause(w *Watcher) bool {
	h.mu.Unlock()
	h.mu.Lock()
	if !w.ended && w.given != nil {
		if err := w.given(); err != nil {
			h.end(w, errSlow(err))
		}
	}
	return !w.ended
}

func errSlow(err error) error {
	return errs.Wrap(err, errs.Timeout, "the tree was not read in time; watch a smaller one")
}

// root makes the open directory f the top of w's tree.
func (h *Hub) root(w *Watcher, f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := refuseNetwork(f, w); err != nil {
		return err
	}
	wd, err := h.in.add(f)
	if err != nil {
		return explain(err, w.path)
	}
	w.root = &dir{w: w, wd: unwatched, dev: st.Dev}
	return h.bind(w.root, wd)
}

// bind makes events of wd events of d, if there may be one more directory.
func (h *Hub) bind(d *dir, wd int32) error {
	if h.in.bound >= h.most {
		h.in.release(wd)
		return errs.New(errs.Exhausted, "the sandbox's watchers have %d directories, and may not have more; watch a smaller tree", h.in.bound)
	}
	h.in.bind(d, wd)
	return nil
}

// gone is the error of a watcher that ended before it had begun.
func (w *Watcher) gone() error {
	if w.queue.err != nil {
		return w.queue.err
	}
	return errs.New(errs.NotFound, "%s was removed while its watching began", w.path)
}

// end ends w: its reader gets what waits, and then err or the end. The caller
// holds mu. Ending again does nothing.
func (h *Hub) end(w *Watcher, err error) {
	if w.ended {
		return
	}
	w.ended = true
	delete(h.watchers, w)
	if len(h.watchers) == 0 {
		h.shut() // with everything it watches
	} else if w.root != nil {
		h.drop(w.root)
		h.in.forget(w)
	}
	w.queue.finish(err)
}

// endAll ends every watcher with err.
func (h *Hub) endAll(err error) {
	for w := range h.watchers {
		h.end(w, err)
	}
}

// Close ends all watchers and waits until nothing of them is left. Later calls
// of Watch are refused.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	h.endAll(errs.New(errs.Unavailable, "the agent is shutting down"))
	h.mu.Unlock()
	h.wg.Wait()
}

// errLost is what readers get whose events did not fit a queue.
func errLost(why string) error {
	return errs.New(errs.Exhausted, "events were lost: %s; list the directory again and watch it anew", why)
}

// explain gives the errors of watching one directory their public words.
func explain(err error, path string) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return errs.Wrap(err, errs.Exhausted, "watch %s: no more directories can be watched (sysctl fs.inotify.max_user_watches); watch a smaller tree", path)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return errs.Wrap(err, errs.Exhausted, "watch %s: out of file descriptors or memory", path)
	case errors.Is(err, unix.ENAMETOOLONG):
		return errs.Wrap(err, errs.Invalid, "a directory below %s has a path over %d bytes, which cannot be watched", path, unix.PathMax-1)
	default:
		return &os.PathError{Op: "watch", Path: path, Err: err}
	}
}

// passes reports whether err only says that a directory is not where an event
// put it, or closed to us. Then a later event tells more, or there is nothing to
// be told.
func passes(err error) bool {
	for _, harmless := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EACCES, unix.EPERM, unix.ESTALE} {
		if errors.Is(err, harmless) {
			return true
		}
	}
	return false
}

// moveGrace is how long a renamed directory waits for its new name, which the
// kernel tells at once.
const moveGrace = time.Second
