package watch

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dir is one directory of a watcher's tree. The Hub's mu guards it.
type dir struct {
	w      *Watcher
	parent *dir // nil at the top
	name   string
	// wd is unwatched while it is not known which directory has this place.
	wd  int32
	dev uint64
	// children are the directories in it, by name.
	children map[string]*dir
	// doubt says that the place could not be looked at, because it or one above
	// had been renamed by then. The event that tells so brings it up again.
	doubt bool
	// mistaken says that what was told to be in it was in another directory.
	mistaken bool
	// complete says that what was in it before it was watched has been read.
	complete bool
	// moving says that its old name was told and the new one not yet; touched
	// that something in it has changed since, under a name nobody knows.
	moving, touched bool
	// gone says that it is no longer part of the tree.
	gone bool
	// seen are the names reported because reading found them. Until seenUntil
	// bytes are handled, their creation may still be among the queued events.
	seen      map[string]struct{}
	seenUntil uint64
}

// rel returns the path of name in d relative to the top.
func (d *dir) rel(name string) string {
	if d.parent == nil {
		return name
	}
	size := len(name)
	for p := d; p.parent != nil; p = p.parent {
		size += len(p.name) + 1
	}
	b := make([]byte, size)
	at := size - copy(b[size-len(name):], name)
	for p := d; p.parent != nil; p = p.parent {
		at--
		b[at] = '/'
		at -= len(p.name)
		copy(b[at:], p.name)
	}
	return string(b)
}

// inMove returns the directory that is moving with d in it, if any.
func (d *dir) inMove() *dir {
	for ; d != nil; d = d.parent {
		if d.moving {
			return d
		}
	}
	return nil
}

// path returns where d should be found.
func (d *dir) path() string {
	if d.parent == nil {
		return d.w.path
	}
	return strings.TrimSuffix(d.w.path, "/") + "/" + d.parent.rel(d.name)
}

// adopt puts child into d as name, in the place of what was there.
func (h *Hub) adopt(d *dir, name string, child *dir) {
	if old := d.children[name]; old != nil && old != child {
		h.in.drop(old)
	}
	if d.children == nil {
		d.children = map[string]*dir{}
	}
	child.parent, child.name = d, name
	d.children[name] = child
}

// detach takes the child called name out of d.
func (d *dir) detach(name string) *dir {
	child := d.children[name]
	delete(d.children, name)
	return child
}

// drop is the instance's, if there still is one.
func (h *Hub) drop(d *dir) {
	if h.in != nil {
		h.in.drop(d)
	}
}

// drop takes d and all below it out of its tree and ends their watching. nil and
// what was dropped before are left alone.
func (in *instance) drop(d *dir) {
	if d == nil || d.gone {
		return
	}
	if d.parent != nil && d.parent.children[d.name] == d {
		delete(d.parent.children, d.name)
	}
	for todo := []*dir{d}; len(todo) > 0; {
		last := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		last.gone, last.seen = true, nil
		in.unbind(last)
		for _, child := range last.children {
			todo = append(todo, child)
		}
		last.children = nil
	}
}

// reported says whether the creation of name, told by an event, was reported
// when d was read. It says so once.
func (d *dir) reported(name string, handled uint64) bool {
	if handled > d.seenUntil {
		d.seen = nil
	}
	_, yes := d.seen[name]
	delete(d.seen, name)
	return yes
}

// openDir opens a directory, following no link on the way.
func openDir(at int, path string) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_NO_SYMLINKS}
	for {
		fd, err := unix.Openat2(at, path, how)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EINTR && err != unix.EAGAIN {
			return nil, err
		}
	}
}

// openDir opens d if it is where it should be, else the error passes.
func (h *Hub) openDir(d *dir) (*os.File, error) {
	f, err := openDir(unix.AT_FDCWD, d.path())
	if err == nil {
		var wd int32
		if wd, err = h.in.add(f); err == nil && wd == d.wd {
			return f, nil
		}
		if err == nil {
			h.in.release(wd)
			err = unix.ESTALE
		}
		_ = f.Close()
	}
	if passes(err) {
		h.suspect(d)
	}
	return nil, err
}

// suspect looks whether the reason why d is not in its place is that the whole
// tree was moved together with a directory above it, which no event tells.
func (h *Hub) suspect(d *dir) {
	w := d.w
	if d.parent != nil {
		if f, err := h.openDir(w.root); err == nil {
			_ = f.Close()
		}
		return
	}
	if !w.missing {
		w.missing, w.missingAt = true, h.horizon()
	}
}

// settleMissing ends the watchers whose directory is not in its place, now that
// the kernel has said nothing of it.
func (h *Hub) settleMissing() {
	for w := range h.watchers {
		if w.missing && h.in.handled >= w.missingAt {
			w.emit(Event{Name: Top, Op: Remove})
			h.end(w, nil)
			if h.in == nil {
				return
			}
		}
	}
}
