package watch

import (
	"sync"
)

// Op is what happened to a name.
type Op int

// The operations. Renaming within the tree is Rename of the old name and then
// Create of the new one; renaming out of the tree is Rename, into it Create. Each
// file in a directory that is new in the tree gets its Create, and a Write if it
// has content, even if it was there before the directory was watched.
const (
	Create Op = iota + 1
	Write
	Remove
	Rename
	Chmod
)

// String returns the operation's name.
func (o Op) String() string {
	return [...]string{Create: "CREATE", Write: "WRITE", Remove: "REMOVE", Rename: "RENAME", Chmod: "CHMOD"}[o]
}

// Top is the name of the watched directory itself in events.
const Top = "."

// Event is one change.
type Event struct {
	// Name is relative to the watched directory: bytes as the kernel has them.
	Name string
	Op   Op
	// From is set with Create of a directory that was renamed within the tree: its
	// old name. What it holds has come with it and is not reported. In any other
	// new directory everything gets its Create.
	From string
}

// Watcher watches one directory or tree. One goroutine reads it; Close may be
// called by any.
type Watcher struct {
	hub                *Hub
	path               string
	recursive, network bool
	queue              queue

	// The rest is guarded by hub.mu.

	root *dir
	// silent is set until the whole tree is watched.
	silent bool
	// given returns an error when nobody waits any more for it to begin; nil once
	// it has.
	given func() error
	ended bool
	// missing is set when path led elsewhere: if the kernel has not explained it
	// when it has told everything up to missingAt, the directory is gone.
	missing   bool
	missingAt uint64
}

// queue holds the events its reader has not taken.
type queue struct {
	ready chan struct{}

	mu     sync.Mutex
	events []Event
	bytes  int
	done   bool
	err    error
}

// Ready has a value when Take may have something new.
func (w *Watcher) Ready() <-chan struct{} { return w.queue.ready }

// Take returns up to most events, oldest first. When there are none left, done
// says that none will come; err says why, or is nil if the directory was removed
// or Close was called.
func (w *Watcher) Take(most int) (events []Event, done bool, err error) {
	q := &w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(most, len(q.events))
	events, q.events = q.events[:n:n], q.events[n:]
	if len(q.events) == 0 {
		q.events = nil
	}
	freed := 0
	for i := range events {
		freed += events[i].cost()
	}
	q.bytes -= freed
	w.hub.waiting.Add(int64(-freed))
	if n == 0 && q.done {
		return nil, true, q.err
	}
	return events, false, nil
}

// Close ends the watcher and drops what was not taken.
func (w *Watcher) Close() {
	w.hub.mu.Lock()
	w.hub.end(w, nil)
	w.hub.mu.Unlock()
	q := &w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	w.hub.waiting.Add(int64(-q.bytes))
	q.events, q.bytes = nil, 0
}

func (e *Event) cost() int { return len(e.Name) + len(e.From) + eventBytes }

// emit queues an event. A reader who is too far behind loses the watcher. The
// caller holds hub.mu.
func (w *Watcher) emit(e Event) {
	if w.silent || w.ended {
		return
	}
	if !w.queue.add(e, &w.hub.waiting) {
		w.hub.end(w, errLost("they came faster than they were read"))
	}
}

// add queues an event if there is room.
func (q *queue) add(e Event, total interface{ Add(int64) int64 }) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	cost := e.cost()
	if q.bytes+cost > maxWatcherBytes || total.Add(int64(cost)) > maxHubBytes {
		if q.bytes+cost <= maxWatcherBytes {
			total.Add(int64(-cost))
		}
		return false
	}
	q.events = append(q.events, e)
	q.bytes += cost
	q.wake()
	return true
}

func (q *queue) finish(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.done, q.err = true, err
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}
