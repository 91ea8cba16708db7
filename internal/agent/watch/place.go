package watch

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// place looks which directory is called name in parent, and makes the tree say
// so. moved is the directory of the tree that was renamed to there by the events,
// or nil. It returns the directory, with fresh if it has yet to be read; nil if
// there is nothing to watch.
func (h *Hub) place(parent *dir, name string, moved *dir) (d *dir, fresh bool) {
	f, err := h.openDir(parent)
	if err != nil {
		return h.unclear(parent, name, moved, err), false
	}
	defer f.Close()
	return h.placeIn(parent, f, name, moved)
}

// placeIn is place with parent open.
func (h *Hub) placeIn(parent *dir, f *os.File, name string, moved *dir) (d *dir, fresh bool) {
	sub, err := openDir(int(f.Fd()), name)
	if err != nil {
		return h.unclear(parent, name, moved, err), false
	}
	defer sub.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(sub.Fd()), &st); err != nil {
		return h.unclear(parent, name, moved, err), false
	}
	if st.Dev != parent.dev && foreign(sub, parent.w) {
		h.drop(moved)
		h.drop(parent.children[name])
		return nil, false
	}
	wd, err := h.in.add(sub)
	if err != nil {
		return h.unclear(parent, name, moved, err), false
	}
	return h.settle(parent, name, moved, &dir{w: parent.w, wd: wd, dev: st.Dev})
}

// unclear notes that a directory could not be opened in its place.
func (h *Hub) unclear(parent *dir, name string, moved *dir, err error) *dir {
	w := parent.w
	if !passes(err) {
		h.end(w, explain(err, w.path))
		return nil
	}
	d := moved
	if d == nil {
		if d = parent.children[name]; d == nil {
			d = &dir{w: w, wd: unwatched, dev: parent.dev}
		}
	}
	d.doubt = true
	h.adopt(parent, name, d)
	return d
}

// settle binds name in parent to the directory that found describes: one of the
// tree if its watch descriptor says so.
func (h *Hub) settle(parent *dir, name string, moved, found *dir) (d *dir, fresh bool) {
	wd, old := found.wd, parent.children[name]
	replaced := old != nil && old.wd != unwatched
	switch {
	case old != nil && old.wd == wd:
		d, replaced = old, false
	case moved != nil && moved.wd == wd:
		d = moved
	default:
		d = found
		d.wd = unwatched
		if err := h.bind(d, wd); err != nil { // before the others lose it
			h.end(parent.w, err)
			h.drop(moved)
			return nil, false
		}
	}
	if moved != nil && moved != d {
		h.drop(moved)
	}
	h.adopt(parent, name, d)
	d.doubt = false
	h.steal(d)
	if replaced { // by renaming over it, which no event tells
		parent.w.emit(Event{Name: parent.rel(name), Op: Remove})
	}
	if d.gone || d.w.ended {
		return nil, false
	}
	return d, !d.complete
}

// steal drops what else in d's tree is bound to its directory, which can have
// one place only.
func (h *Hub) steal(d *dir) {
	for again := true; again; {
		again = false
		for _, other := range h.in.marks[d.wd] {
			if other != d && other.w == d.w {
				h.giveUp(other)
				again = true
				break
			}
		}
	}
}

// giveUp drops a directory that is in another place. If nobody has looked at its
// own yet, something is there that must still be found.
func (h *Hub) giveUp(d *dir) {
	parent, open := d.parent, d.doubt && !d.moving
	h.drop(d)
	if open && parent != nil {
		h.adopt(parent, d.name, &dir{w: d.w, wd: unwatched, dev: parent.dev, doubt: true, mistaken: true})
	}
}

// readAll reads a directory and all below it.
func (h *Hub) readAll(d *dir) {
	for todo := []*dir{d}; len(todo) > 0 && !d.w.ended; {
		last := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], h.read(last)...)
	}
}

// read reports what is in a directory that is watched since a moment ago, and
// watches the directories in it, which it returns. Others get mu meanwhile.
func (h *Hub) read(d *dir) (subs []*dir) {
	if d.gone || d.w.ended {
		return nil
	}
	f, err := h.openDir(d)
	if err != nil {
		h.unread(d, err)
		return nil
	}
	defer f.Close()
	d.complete = true
	for {
		entries, err := f.ReadDir(256)
		for _, e := range entries {
			if sub := h.found(d, f, e); sub != nil {
				subs = append(subs, sub)
			}
			if d.w.ended || d.gone {
				return nil
			}
		}
		if !h.pause(d.w) {
			return nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				h.remember(d)
			} else {
				h.unread(d, err)
			}
			return subs
		}
	}
}

// unread notes that a directory could not be read.
func (h *Hub) unread(d *dir, err error) {
	if !passes(err) {
		h.end(d.w, explain(err, d.w.path))
		return
	}
	d.doubt = true
}

// remember keeps the names that were reported for as long as the queue may hold
// their events.
func (h *Hub) remember(d *dir) {
	if d.seenUntil = h.horizon(); d.seenUntil == h.in.handled {
		d.seen = nil
	}
	if d.seen != nil {
		h.in.recent = append(h.in.recent, d)
	}
}

// forgetSeen drops those names when the queue is empty.
func (in *instance) forgetSeen() {
	for _, d := range in.recent {
		d.seen = nil
	}
	in.recent = nil
}

// found reports one entry of the open directory f, and returns it if it is a
// directory that must be read in turn.
func (h *Hub) found(d *dir, f *os.File, e fs.DirEntry) *dir {
	name := e.Name()
	if h.naming(name) != Ordinary {
		return nil
	}
	known := d.children[name]
	if !d.w.silent && known == nil {
		if d.seen == nil {
			d.seen = map[string]struct{}{}
		}
		d.seen[name] = struct{}{}
		d.w.emit(Event{Name: d.rel(name), Op: Create})
		if written(f, e) {
			d.w.emit(Event{Name: d.rel(name), Op: Write})
		}
	}
	if !d.w.recursive || !e.IsDir() || d.w.ended {
		return nil
	}
	sub, fresh := h.placeIn(d, f, name, nil)
	if !fresh {
		return nil
	}
	if known != nil && known != sub && known.gone {
		d.w.emit(Event{Name: d.rel(name), Op: Create})
	}
	return sub
}

// written reports whether an entry of the open directory f is a file with
// content, so that its writing may have been missed.
func written(f *os.File, e fs.DirEntry) bool {
	var st unix.Stat_t
	return e.Type().IsRegular() && unix.Fstatat(int(f.Fd()), e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Size > 0
}
