package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// interest is what the kernel is asked to tell about every directory. A file
	// that was unlinked but is still open has no name any more.
	interest = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK
	// bufferBytes is what is read at once; one event has at most 272 bytes.
	bufferBytes = 64 << 10
	// readsMost is how many buffers are handled before others get the lock.
	readsMost = 4
	// unwatched stands for no watch descriptor.
	unwatched = int32(-1)
)

// instance is an open inotify instance. The Hub's mu guards it.
type instance struct {
	file *os.File
	fd   int
	buf  []byte
	// rest is what was read and not handled; handled counts the bytes that were.
	rest    []byte
	handled uint64
	// marks are the directories bound to each watch descriptor. The kernel gives
	// the numbers in ascending order, so that one is not soon used again.
	marks map[int32][]*dir
	// bound counts them.
	bound int
	// moves are directories whose old name was told and the new one not yet.
	moves []move
	// hidden are cookies of the latest renamings of names that are not reported.
	hidden [64]hiddenMove
	next   int
	// recent are directories whose seen may hold names.
	recent []*dir
}

// move is a directory on the way from its old name.
type move struct {
	cookie uint32
	d      *dir
	old    string
	since  time.Time
}

type hiddenMove struct {
	cookie uint32
	naming Naming
}

// open makes the instance if there is none, and the goroutine that reads it. The
// caller holds mu.
func (h *Hub) open() error {
	if h.in != nil {
		return nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return errs.Wrap(err, errs.Exhausted, "no inotify instance is left (sysctl fs.inotify.max_user_instances, or open files); end a program that watches files")
	}
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	in := &instance{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, buf: make([]byte, bufferBytes), marks: map[int32][]*dir{}}
	raw, err := in.file.SyscallConn()
	if err != nil {
		return errors.Join(err, in.file.Close())
	}
	h.in = in
	h.wg.Go(func() {
		defer in.file.Close()
		// An error is the deadline that shut sets.
		for raw.Read(func(uintptr) bool { return h.serve(in) }) == nil && h.serving(in) {
		}
	})
	return nil
}

// serve handles what is queued, and reports false when there is nothing more.
func (h *Hub) serve(in *instance) bool {
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.in != in {
		return true
	}
	return h.pump(in, in.handled+readsMost*bufferBytes) || h.in != in
}

func (h *Hub) serving(in *instance) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.in == in
}

// shut lets the instance go: its goroutine wakes and closes it, which only the
// reader of a file can do without waiting for itself. The caller holds mu.
func (h *Hub) shut() {
	if h.in != nil {
		_ = h.in.file.SetReadDeadline(time.Unix(1, 0)) // it has one: it is not blocking
		h.in = nil
	}
}

// horizon is the count of handled bytes at which everything that is queued now
// will have been handled.
func (h *Hub) horizon() uint64 {
	// Of an inotify instance TIOCINQ, also called FIONREAD, tells the queue's bytes.
	queued, err := unix.IoctlGetInt(h.in.fd, unix.TIOCINQ)
	if err != nil {
		queued = 0 // it cannot fail for an open instance
	}
	return h.in.handled + uint64(len(h.in.rest)) + uint64(queued)
}

// pump handles queued events until none is left or handled has reached until. It
// reports whether there may be more. The caller holds turn and mu; h.in is nil
// afterwards if the last watcher has ended.
func (h *Hub) pump(in *instance, until uint64) (more bool) {
	in.sweep(time.Now())
	for h.in == in && in.handled < until {
		n, err := unix.Read(in.fd, in.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			in.forgetSeen()
			h.settleMissing()
			return false
		case err != nil || n <= 0:
			h.endAll(errs.Wrap(errors.Join(err, errors.New("read inotify")), errs.Internal, "watching failed"))
			return false
		}
		in.rest = in.buf[:n]
		for h.in == in && len(in.rest) > 0 {
			h.step(in)
		}
	}
	return h.in == in
}

// step handles the next event of what was read.
func (h *Hub) step(in *instance) {
	e, size, ok := parse(in.rest)
	if !ok {
		h.endAll(errs.New(errs.Internal, "watching failed: the kernel's events cannot be read"))
		return
	}
	in.rest = in.rest[size:]
	in.handled += uint64(size)
	h.handle(e)
	if h.in == in {
		h.settleMissing()
	}
}

// event is one struct inotify_event.
type event struct {
	wd     int32
	mask   uint32
	cookie uint32
	name   string
}

func (e *event) has(bits uint32) bool { return e.mask&bits != 0 }

// parse decodes the first event of buf and returns its size. It is not ok if
// the event is not whole or has a name that no directory can have.
func parse(buf []byte) (e event, size int, ok bool) {
	if len(buf) < unix.SizeofInotifyEvent {
		return e, 0, false
	}
	order := binary.NativeEndian
	e.wd = int32(order.Uint32(buf))
	e.mask, e.cookie = order.Uint32(buf[4:]), order.Uint32(buf[8:])
	length := order.Uint32(buf[12:])
	if length > uint32(len(buf)-unix.SizeofInotifyEvent) {
		return e, 0, false
	}
	size = unix.SizeofInotifyEvent + int(length)
	name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:size], []byte{0})
	e.name = string(name)
	return e, size, !strings.Contains(e.name, "/") && e.name != "." && e.name != ".."
}

// add watches an open directory and returns its descriptor, the one there is if
// it is watched already.
func (in *instance) add(f *os.File) (int32, error) {
	// The magic link leads to the directory that was opened, wherever it is now.
	wd, err := unix.InotifyAddWatch(in.fd, "/proc/self/fd/"+strconv.Itoa(int(f.Fd())), interest)
	return int32(wd), err
}

// bind makes events of wd events of d.
func (in *instance) bind(d *dir, wd int32) {
	d.wd = wd
	in.marks[wd] = append(in.marks[wd], d)
	in.bound++
}

// unbind ends that, and the watching if d was the last.
func (in *instance) unbind(d *dir) {
	if d.wd == unwatched {
		return
	}
	wd := d.wd
	d.wd = unwatched
	in.bound--
	in.marks[wd] = slices.DeleteFunc(in.marks[wd], func(other *dir) bool { return other == d })
	in.release(wd)
}

// release ends the watching of a descriptor that nothing is bound to.
func (in *instance) release(wd int32) {
	if len(in.marks[wd]) == 0 {
		delete(in.marks, wd)
		// It fails if the directory is gone, and the watch with it.
		_, _ = unix.InotifyRmWatch(in.fd, uint32(wd))
	}
}

// take returns what of w is being renamed under cookie, without a directory if
// nothing is.
func (in *instance) take(w *Watcher, cookie uint32) move {
	for i, m := range in.moves {
		if m.cookie == cookie && m.d.w == w {
			in.moves = slices.Delete(in.moves, i, i+1)
			if m.d.gone {
				break
			}
			return m
		}
	}
	return move{}
}

// sweep drops directories that never got a new name: the kernel says when one
// left the tree, unless it is another than it was taken for.
func (in *instance) sweep(now time.Time) {
	in.moves = slices.DeleteFunc(in.moves, func(m move) bool {
		if now.Sub(m.since) < moveGrace {
			return false
		}
		in.drop(m.d)
		return true
	})
}

// forget drops the renamings of an ended watcher.
func (in *instance) forget(w *Watcher) {
	in.moves = slices.DeleteFunc(in.moves, func(m move) bool {
		if m.d.w == w {
			in.drop(m.d)
		}
		return m.d.w == w
	})
}
