package watch

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// handle follows one event in the trees of all watchers it concerns.
func (h *Hub) handle(e event) {
	in := h.in
	if e.has(unix.IN_Q_OVERFLOW) {
		h.endAll(errLost("the kernel's queue was full (sysctl fs.inotify.max_queued_events)"))
		return
	}
	naming := Ordinary
	if e.name != "" {
		naming = h.classify(&e)
	}
	dirs := in.marks[e.wd]
	if len(dirs) > 1 {
		dirs = slices.Clone(dirs) // handling may change who is bound
	}
	for _, d := range dirs {
		switch {
		case d.gone || d.w.ended:
		case e.name == "":
			h.self(d, &e)
		case naming == Ordinary || e.has(unix.IN_MOVED_TO):
			if moving := d.inMove(); moving != nil {
				moving.touched = true
			} else {
				h.child(d, &e, naming)
			}
		}
		if h.in != in {
			return // the last watcher has ended
		}
	}
	if e.has(unix.IN_IGNORED) {
		in.bound -= len(in.marks[e.wd])
		delete(in.marks, e.wd)
	}
}

// classify returns what an event's name stands for: for a renaming that brings a
// name, what the old one stood for.
func (h *Hub) classify(e *event) Naming {
	in := h.in
	naming := h.naming(e.name)
	switch {
	case naming != Ordinary && e.has(unix.IN_MOVED_FROM):
		in.hidden[in.next] = hiddenMove{e.cookie, naming}
		in.next = (in.next + 1) % len(in.hidden)
	case naming != Ordinary:
		e.mask &^= unix.IN_MOVED_TO // to a name that is not reported
	case e.has(unix.IN_MOVED_TO):
		for _, m := range in.hidden {
			if m.cookie == e.cookie && m.naming != Ordinary {
				return m.naming
			}
		}
	}
	return naming
}

// self follows an event of a directory itself.
func (h *Hub) self(d *dir, e *event) {
	top := d.parent == nil
	switch {
	case top && e.has(unix.IN_MOVE_SELF):
		d.w.emit(Event{Name: Top, Op: Rename})
		h.end(d.w, nil)
	case top && e.has(unix.IN_DELETE_SELF|unix.IN_UNMOUNT|unix.IN_IGNORED):
		d.w.emit(Event{Name: Top, Op: Remove})
		h.end(d.w, nil)
	case top && e.has(unix.IN_ATTRIB):
		d.w.emit(Event{Name: Top, Op: Chmod}) // of others the parent tells
	case e.has(unix.IN_MOVE_SELF):
		// The kernel told the new name before, if it was in this tree.
		h.in.moves = slices.DeleteFunc(h.in.moves, func(m move) bool {
			if m.d == d {
				h.drop(d)
			}
			return m.d == d
		})
	case e.has(unix.IN_IGNORED):
		d.wd = unwatched
		for _, child := range d.children {
			h.drop(child)
		}
	}
}

// child follows an event of a name in d.
func (h *Hub) child(d *dir, e *event, naming Naming) {
	isDir := e.has(unix.IN_ISDIR) && d.w.recursive
	switch {
	case e.has(unix.IN_CREATE | unix.IN_MOVED_TO):
		if isDir {
			h.arrive(d, e)
			return
		}
		if naming != Rewriting {
			if d.reported(e.name, h.in.handled) {
				return
			}
			d.w.emit(Event{Name: d.rel(e.name), Op: Create})
		}
		if naming == Writing || naming == Rewriting {
			d.w.emit(Event{Name: d.rel(e.name), Op: Write})
		}
	case e.has(unix.IN_MODIFY):
		d.w.emit(Event{Name: d.rel(e.name), Op: Write})
	case e.has(unix.IN_ATTRIB):
		d.w.emit(Event{Name: d.rel(e.name), Op: Chmod})
	case e.has(unix.IN_DELETE):
		delete(d.seen, e.name)
		d.w.emit(Event{Name: d.rel(e.name), Op: Remove})
		h.drop(d.children[e.name]) // whatever it was taken for
	case e.has(unix.IN_MOVED_FROM):
		delete(d.seen, e.name)
		h.depart(d, e, isDir)
	}
}

// depart follows the renaming of a name in d. A directory waits for its new name.
func (h *Hub) depart(d *dir, e *event, isDir bool) {
	old := d.rel(e.name)
	d.w.emit(Event{Name: old, Op: Rename})
	if d.w.ended {
		return
	}
	switch gone := d.detach(e.name); {
	case gone == nil:
	case gone.wd == unwatched || !isDir:
		// Nothing of it was reported, or a file had the name before: whatever comes
		// is new.
		h.drop(gone)
	default:
		gone.moving = true
		h.in.moves = append(h.in.moves, move{cookie: e.cookie, d: gone, old: old, since: time.Now()})
	}
}

// arrive follows a directory that was made in d, or renamed to there.
func (h *Hub) arrive(d *dir, e *event) {
	var m move
	if e.has(unix.IN_MOVED_TO) {
		m = h.in.take(d.w, e.cookie)
	}
	var place *dir
	var name string
	if m.d != nil {
		place, name = m.d.parent, m.d.name
		if m.d.moving = false; m.d.touched { // to be told anew, with all it holds
			h.drop(m.d)
			m.d = nil
		}
	}
	sub, fresh := h.place(d, e.name, m.d)
	if d.gone || d.w.ended {
		if d.w.ended {
			h.drop(m.d) // which was no longer in its tree, and may not be yet
		}
		return
	}
	report := Event{Name: d.rel(e.name), Op: Create}
	if m.d != nil && sub == m.d {
		report.From = m.old
	}
	if !d.reported(e.name, h.in.handled) {
		d.w.emit(report)
	}
	if fresh {
		h.readAll(sub)
	}
	switch {
	case m.d == nil || sub == nil:
	case sub == m.d:
		h.review(sub)
	default:
		h.reappear(place, name)
	}
}

// reappear looks at the place a directory seemed to have left: if two exchanged
// their names, the one now there was taken for the other.
func (h *Hub) reappear(parent *dir, name string) {
	if parent.gone || parent.w.ended || parent.children[name] != nil {
		return
	}
	sub, fresh := h.place(parent, name, nil)
	switch {
	case sub == nil:
	case fresh:
		parent.w.emit(Event{Name: parent.rel(name), Op: Create})
		h.readAll(sub)
	case sub.wd == unwatched:
		h.drop(sub)
	}
}

// review looks again at the places at and below d that could not be looked at,
// now that their path is known.
func (h *Hub) review(d *dir) {
	var doubtful []*dir
	for todo := []*dir{d}; len(todo) > 0; {
		last := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if last.doubt && last != d {
			doubtful = append(doubtful, last)
		}
		for _, child := range last.children {
			todo = append(todo, child)
		}
	}
	for _, p := range doubtful {
		if !p.gone && !p.w.ended {
			h.lookAgain(p)
		}
	}
}

func (h *Hub) lookAgain(p *dir) {
	parent, name, known := p.parent, p.name, p.wd != unwatched
	sub, fresh := h.place(parent, name, nil)
	if sub == nil || !fresh || parent.gone {
		return
	}
	if p.mistaken {
		parent.w.emit(Event{Name: parent.rel(name), Op: Remove})
	}
	if p.mistaken || known && sub != p { // it was another directory all the time
		parent.w.emit(Event{Name: parent.rel(name), Op: Create})
	}
	h.readAll(sub)
}
