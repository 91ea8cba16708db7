package process

import (
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// chunkMax bounds the output in one event.
const chunkMax = 64 << 10

// subscriber reads a process's output from where it attached. It belongs to one
// goroutine; its fields but ready are guarded by output.mu.
type subscriber struct {
	o *output
	// ready has room for one token, put there when there is something to read.
	ready chan struct{}
	// next is the offset of the first byte not yet taken.
	next uint64
	// moved is when the subscriber last took something.
	moved time.Time
	// lost is set when it was dropped for being too slow.
	lost bool
	buf  []byte
}

// errLost is what a dropped subscriber's stream ends with.
var errLost = errs.New(errs.Exhausted,
	"this stream was dropped: it took no output for %s while the process waited; connect again to follow the process", stallLimit)

// subscribe attaches a subscriber at the present end of the output.
func (o *output) subscribe() (*subscriber, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.subs) >= subscribersMax {
		return nil, errs.New(errs.Exhausted, "the process has %d subscribers already; close one first", subscribersMax)
	}
	s := &subscriber{o: o, ready: make(chan struct{}, 1), next: o.end, moved: time.Now()}
	o.subs = append(o.subs, s)
	return s, nil
}

// detach ends the subscription.
func (s *subscriber) detach() {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	for i, other := range s.o.subs {
		if other == s {
			s.o.subs = append(s.o.subs[:i], s.o.subs[i+1:]...)
			break
		}
	}
	s.o.freed()
	s.o.release()
}

func (s *subscriber) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// take returns the next output of one stream, valid until the next call. Without
// data it says whether the output has ended; an error means the subscriber was
// dropped.
func (s *subscriber) take() (data []byte, from stream, ended bool, err error) {
	o := s.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.lost {
		return nil, 0, false, errLost
	}
	if s.next == o.end {
		return nil, 0, o.closed, nil
	}
	seg := o.segmentAt(s.next)
	n := int(min(seg.end-s.next, chunkMax))
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	data = s.buf[:n]
	o.copyOut(data, s.next)
	s.next += uint64(n)
	s.moved = time.Now()
	o.freed()
	return data, seg.from, false, nil
}

// segmentAt returns the segment that holds an offset. The caller holds mu and
// the offset is kept.
func (o *output) segmentAt(offset uint64) segment {
	low, high := 0, len(o.segments)-1
	for low < high {
		mid := (low + high) / 2
		if o.segments[mid].end <= offset {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return o.segments[low]
}

// copyOut copies the output at offset. The caller holds mu.
func (o *output) copyOut(dst []byte, offset uint64) {
	for len(dst) > 0 {
		n := copy(dst, o.buf[offset%uint64(len(o.buf)):])
		dst, offset = dst[n:], offset+uint64(n)
	}
}
