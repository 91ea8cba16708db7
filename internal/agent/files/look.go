package files

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// largeDir is the number of names from which on two threads look at a
	// directory, lookAhead how many files they are ahead, lookStep how many one
	// of them takes at a time.
	largeDir, lookAhead, lookStep = 2048, 1024, 128
)

// facts are what the kernel says of one file.
type facts struct {
	unix.Stat_t
	// gone says that there is no such file any more.
	gone bool
	// attributes says that it may have extended attributes.
	attributes bool
}

// look finds out about the files of one directory, in order. Nearly all of a
// listing's time is the kernel's, for one file after the other; so in a large
// directory a second thread, where the agent otherwise has one, looks ahead.
type look struct {
	width  *width
	dir    int
	prefix string
	// names are those nobody has looked at yet.
	names []string
	// seen are the facts not yet taken; of batches one is being taken while the
	// other is being looked at.
	seen    []facts
	batches [2]batch
	wide    bool
}

// batch is a part of the names.
type batch struct {
	names []string
	facts []facts
	taken atomic.Int64 // how many somebody looks at or has looked at
	other sync.WaitGroup
}

// newLook is for the names in dir; at is its descriptor, AT_FDCWD if it is not
// open. The caller calls end.
func (w *width) newLook(at int, dir string, names []string) *look {
	k := &look{width: w, dir: at, prefix: dir + "/", names: names, wide: len(names) >= largeDir}
	if dir == "/" {
		k.prefix = dir
	}
	if k.wide {
		w.widen()
		k.begin()
	}
	return k
}

// end waits for the other thread.
func (k *look) end() {
	if k.wide {
		k.batches[0].other.Wait()
		k.width.narrow()
	}
}

// next returns the facts of the next name.
func (k *look) next() facts {
	if !k.wide {
		var f facts
		k.examine(k.names[0], &f)
		k.names = k.names[1:]
		return f
	}
	if len(k.seen) == 0 {
		k.lend(&k.batches[0])
		k.batches[0].other.Wait()
		k.seen = k.batches[0].facts
		k.batches[0].facts, k.batches[1].facts = k.batches[1].facts, k.seen
		k.begin()
	}
	f := k.seen[0]
	k.seen = k.seen[1:]
	return f
}

// begin has the other thread look at the next names.
func (k *look) begin() {
	b := &k.batches[0]
	n := min(len(k.names), lookAhead)
	b.names, k.names = k.names[:n], k.names[n:]
	b.facts = slices.Grow(b.facts[:0], n)[:n]
	b.taken.Store(0)
	if n > 0 {
		b.other.Go(func() { k.lend(b) })
	}
}

// lend looks at the names of a batch that nobody else does.
func (k *look) lend(b *batch) {
	for {
		end := int(b.taken.Add(lookStep))
		start := end - lookStep
		if start >= len(b.names) {
			return
		}
		for i := start; i < min(end, len(b.names)); i++ {
			k.examine(b.names[i], &b.facts[i])
		}
	}
}

func (k *look) examine(name string, f *facts) {
	if k.dir == unix.AT_FDCWD {
		name = k.prefix + name
	}
	f.gone = unix.Fstatat(k.dir, name, &f.Stat_t, unix.AT_SYMLINK_NOFOLLOW) != nil
	f.attributes = !f.gone && f.Mode&unix.S_IFMT == unix.S_IFREG && hasAttributes(k.dir, name)
}

// hasAttributes reports whether a file may have extended attributes. Unlike
// llistxattr(2), listxattrat(2) (Linux 6.13) need not walk the whole path.
func hasAttributes(dir int, name string) bool {
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return false
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(path)),
		unix.AT_SYMLINK_NOFOLLOW, 0, 0, 0)
	return errno != 0 || n > 0 // on an older kernel it may: the path will tell
}

// width counts those who need a second processor of the Go runtime, which has
// one setting for the whole program.
type width struct {
	mu       sync.Mutex
	users    int
	ordinary int
}

// widen gives the runtime two processors until narrow.
func (w *width) widen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users++; w.users == 1 {
		w.ordinary = runtime.GOMAXPROCS(0)
		runtime.GOMAXPROCS(max(2, w.ordinary))
	}
}

func (w *width) narrow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users--; w.users == 0 {
		runtime.GOMAXPROCS(w.ordinary)
	}
}
