package control

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

const (
	// maxReadings bounds a sandbox's history: 224 readings of 40 bytes are 9 KiB.
	maxReadings = 224
	// minInterval is the shortest time over which use of processors says
	// something: the kernel counts on while it is read.
	minInterval = 100 * time.Millisecond
	// maxSkew is how far apart readings made at once may be.
	maxSkew = time.Second
)

// reading is what a sandbox used at one moment.
type reading struct {
	at                  int64 // Unix time in milliseconds
	cpu                 int64 // nanoseconds
	memory, cache, disk int64 // bytes
}

func newReading(at time.Time, s sandbox.Stats) reading {
	return reading{at: at.UnixMilli(), cpu: int64(s.CPUTime), memory: s.MemoryBytes, cache: s.CacheBytes, disk: s.DiskBytes}
}

// metric says what r means, given an earlier reading of the same sandbox.
func (r reading) metric(before reading, l sandbox.Limits) Metric {
	percent := 0.0
	if elapsed := float64(r.at-before.at) * 1e6 * float64(l.CPUs); elapsed > 0 {
		percent = 100 * float64(r.cpu-before.cpu) / elapsed
	}
	// The limit holds over its period, not between any two moments.
	percent = math.Round(min(max(percent, 0), 100)*100) / 100
	return Metric{
		At: time.UnixMilli(r.at).UTC(), CPUs: l.CPUs, CPUPercent: percent,
		MemoryUsed: max(r.memory-r.cache, 0), MemoryCache: r.cache, MemoryTotal: l.MemoryBytes,
		DiskUsed: r.disk, DiskTotal: l.DiskBytes,
	}
}

// history is a sandbox's readings from its first to its latest. When it is
// full every second one of the older half is dropped: it always covers the
// whole life, the longer ago the coarser. The zero value is empty. It is safe
// for concurrent use, and its lock is taken last.
type history struct {
	mu       sync.Mutex
	readings []reading // in order of time
}

// add appends a reading. One that comes late is dropped. When the clock was set
// back, what was read before tells nothing any more.
func (h *history) add(r reading) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.readings); n > 0 && r.at <= h.readings[n-1].at {
		if h.readings[n-1].at-r.at <= maxSkew.Milliseconds() {
			return
		}
		h.readings = nil
	}
	h.makeRoom()
	h.readings = append(h.readings, r)
}

func (h *history) makeRoom() {
	n := len(h.readings)
	switch {
	case n == maxReadings:
		kept := h.readings[:0]
		for i, r := range h.readings {
			if i > n/2 || i%2 == 0 {
				kept = append(kept, r)
			}
		}
		h.readings = kept
	case n == cap(h.readings): // append alone would grow past the bound
		larger := make([]reading, n, min(max(2*n, 8), maxReadings))
		copy(larger, h.readings)
		h.readings = larger
	}
}

// size returns how many readings there are and when the latest was made.
func (h *history) size() (n int, latest time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n = len(h.readings); n > 0 {
		latest = time.UnixMilli(h.readings[n-1].at)
	}
	return n, latest
}

// between returns the metrics from one time on and before another; the first
// reading is none, since what processors did needs two.
func (h *history) between(from, until time.Time, l sandbox.Limits) []Metric {
	h.mu.Lock()
	defer h.mu.Unlock()
	found := []Metric{}
	for i := 1; i < len(h.readings); i++ {
		at := h.readings[i].at
		if at >= from.UnixMilli() && at < until.UnixMilli() {
			found = append(found, h.readings[i].metric(h.readings[i-1], l))
		}
	}
	return found
}

// last returns the latest metric, if there is one.
func (h *history) last(l sandbox.Limits) (Metric, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.readings)
	if n < 2 {
		return Metric{}, false
	}
	return h.readings[n-1].metric(h.readings[n-2], l), true
}

// upTo returns the latest reading that was made at or before a time.
func (h *history) upTo(at time.Time) (reading, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range slices.Backward(h.readings) {
		if r.at <= at.UnixMilli() {
			return r, true
		}
	}
	return reading{}, false
}
