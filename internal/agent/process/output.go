package process

import (
	"errors"
	"sync"
	"syscall"
	"time"
)

const (
	// ringMax bounds the output kept of one process, in bytes: what the slowest
	// subscriber may lag before the process has to wait for it.
	ringMax = 256 << 10
	// ringMin is what is allocated at first; most commands print little.
	ringMin = 8 << 10
	// readMax bounds one read of a pipe. A read may overwrite that much of what
	// is kept, so it is small beside ringMax.
	readMax = 32 << 10
	// segmentsMax bounds the alternations between streams that are kept.
	segmentsMax = 4096
	// subscribersMax bounds the subscribers of one process.
	subscribersMax = 64
)

// stallLimit is how long a process waits for one subscriber that takes nothing
// at all, before that subscriber is dropped.
const stallLimit = 60 * time.Second

// errFull says that the slowest subscriber has to take something first.
var errFull = errors.New("output ring is full")

// stream is one of a process's outputs.
type stream uint8

const (
	stdout stream = iota
	stderr
	terminal // both of them, of a process that has a terminal
)

// segment says that the output up to an offset, from where the segment before
// it ends, came from one stream.
type segment struct {
	end  uint64
	from stream
}

// output is everything a process has written, in the order it was read: a ring
// that keeps the last part, addressed by offsets that count from the process's
// start and never go back.
type output struct {
	mu sync.Mutex
	// buf holds byte i of the output at i % len(buf) for start ≤ i < end.
	buf        []byte
	start, end uint64
	segments   []segment // the first one holds start
	subs       []*subscriber
	// space is closed and replaced when a waiting reader may find room.
	space chan struct{}
	// waiting counts the readers that wait for room.
	waiting int
	// closed is set when nothing more is added; later output is discarded.
	closed bool
	stall  time.Duration
	// lastRead is when output last came; read tells how much of each stream.
	lastRead time.Time
	read     [terminal + 1]int64
}

func newOutput() *output {
	return &output{space: make(chan struct{}), stall: stallLimit}
}

// fill reads from a non-blocking descriptor into the ring, once. It returns
// errFull when there is no room and otherwise what read(2) returns.
func (o *output) fill(fd int, from stream) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return discard(fd)
	}
	dst := o.room()
	if len(dst) == 0 {
		return 0, errFull
	}
	n, err := read(fd, dst)
	if n > 0 {
		o.commit(n, from)
	}
	return max(n, 0), err
}

// room returns where the next bytes go, empty when the slowest subscriber has
// not yet taken what is there. The caller holds mu.
func (o *output) room() []byte {
	if n := len(o.segments); n >= segmentsMax {
		o.forget(o.segments[n/2].end)
		if len(o.segments) >= segmentsMax {
			return nil
		}
	}
	o.grow()
	free := len(o.buf) - int(o.end-o.oldestWanted())
	at := int(o.end % uint64(len(o.buf)))
	n := min(free, len(o.buf)-at, readMax)
	// The read may overwrite the oldest bytes; nobody wants them any more.
	if used := int(o.end - o.start); used+n > len(o.buf) {
		o.forget(o.end + uint64(n) - uint64(len(o.buf)))
	}
	return o.buf[at : at+n]
}

// grow doubles the ring when it is half full. The caller holds mu.
func (o *output) grow() {
	size := len(o.buf)
	if size == ringMax || size > 0 && int(o.end-o.start) < size/2 {
		return
	}
	bigger := make([]byte, max(ringMin, 2*size))
	for i := o.start; i < o.end; {
		src := o.buf[i%uint64(size):]
		src = src[:min(uint64(len(src)), o.end-i)]
		i += uint64(copy(bigger[i%uint64(len(bigger)):], src))
	}
	o.buf = bigger
}

// forget gives up what is kept before offset, as far as no subscriber wants it.
// The caller holds mu.
func (o *output) forget(offset uint64) {
	offset = min(offset, o.oldestWanted())
	if offset <= o.start {
		return
	}
	o.start = offset
	drop := 0
	for drop < len(o.segments) && o.segments[drop].end <= offset {
		drop++
	}
	o.segments = append(o.segments[:0], o.segments[drop:]...)
}

// oldestWanted is the offset of the slowest subscriber. The caller holds mu.
func (o *output) oldestWanted() uint64 {
	oldest := o.end
	for _, s := range o.subs {
		oldest = min(oldest, s.next)
	}
	return oldest
}

// commit appends n bytes that room's slice now holds. The caller holds mu.
func (o *output) commit(n int, from stream) {
	now := time.Now()
	for _, s := range o.subs {
		if s.next == o.end {
			s.moved = now // it had taken everything: its time starts now
		}
		s.wake()
	}
	o.end += uint64(n)
	o.read[from] += int64(n)
	o.lastRead = now
	if last := len(o.segments) - 1; last >= 0 && o.segments[last].from == from {
		o.segments[last].end = o.end
	} else {
		o.segments = append(o.segments, segment{end: o.end, from: from})
	}
}

// waitSpace blocks until there may be room, and drops the subscribers that have
// taken nothing for the stall limit.
func (o *output) waitSpace() {
	o.mu.Lock()
	if o.closed || len(o.room()) > 0 {
		o.mu.Unlock()
		return
	}
	o.waiting++
	space := o.space
	o.mu.Unlock()

	timer := time.NewTimer(o.stall)
	defer timer.Stop()
	select {
	case <-space:
	case <-timer.C:
	}

	o.mu.Lock()
	o.waiting--
	o.dropStalled()
	o.mu.Unlock()
}

// dropStalled drops the subscribers that hold the process up. The caller holds mu.
func (o *output) dropStalled() {
	kept := o.subs[:0]
	for _, s := range o.subs {
		if s.next < o.end && time.Since(s.moved) >= o.stall {
			s.lost = true
			s.wake()
			continue
		}
		kept = append(kept, s)
	}
	clear(o.subs[len(kept):])
	o.subs = kept
}

// freed tells waiting readers to look again. The caller holds mu.
func (o *output) freed() {
	if o.waiting > 0 {
		close(o.space)
		o.space = make(chan struct{})
	}
}

// close ends the output: subscribers see its end once they have taken the rest,
// and whatever still writes to the pipes is read and thrown away.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.freed()
	for _, s := range o.subs {
		s.wake()
	}
	o.release()
}

// release frees the ring when nobody can read it any more: what keeps a pipe of
// an ended process open may live long. The caller holds mu.
func (o *output) release() {
	if o.closed && len(o.subs) == 0 {
		o.buf, o.segments, o.start = nil, nil, o.end
	}
}

// progress returns how much was read from a stream and when any last came.
func (o *output) progress(from stream) (int64, time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.read[from], o.lastRead
}

// discard reads and forgets.
func discard(fd int) (int, error) {
	var waste [4096]byte
	return read(fd, waste[:])
}

func read(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, p)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
