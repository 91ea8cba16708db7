package control

import (
	"testing"
	"time"
	"unsafe"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// fill adds n readings, one a second, of a sandbox that keeps one processor busy.
func fill(h *history, n int) {
	for i := range n {
		h.add(newReading(began.Add(time.Duration(i)*time.Second), sandbox.Stats{CPUTime: time.Duration(i) * time.Second}))
	}
}

// However long a sandbox lives, its history has a bound, covers the whole life,
// is dense at its end, and lost no processor time.
func TestHistoryIsBounded(t *testing.T) {
	for _, n := range []int{1, 2, maxReadings, maxReadings + 1, 1000, 100_000} {
		var h history
		fill(&h, n)
		if got := cap(h.readings) * int(unsafe.Sizeof(reading{})); got > 10<<10 {
			t.Errorf("after %d readings it takes %d bytes", n, got)
		}
		if len(h.readings) < min(n, maxReadings/2) {
			t.Errorf("after %d readings %d are left", n, len(h.readings))
		}
		all := h.between(time.Time{}, began.Add(time.Duration(n)*time.Second), sandbox.Limits{CPUs: 4})
		if len(all) != len(h.readings)-1 {
			t.Errorf("%d readings are %d metrics", len(h.readings), len(all))
		}
		if first := h.readings[0].at; first != began.UnixMilli() {
			t.Errorf("after %d readings the history begins %d ms late", n, first-began.UnixMilli())
		}
		checkRow(t, n, all)
	}
}

func checkRow(t *testing.T, n int, all []Metric) {
	t.Helper()
	for i, m := range all {
		if m.CPUPercent != 25 {
			t.Fatalf("of %d, metric %d says %v %%, want 25", n, i, m.CPUPercent)
		}
		want := began.Add(time.Duration(n-len(all)+i) * time.Second)
		if i >= len(all)-maxReadings/4 && !m.At.Equal(want) {
			t.Fatalf("of %d, metric %d is of %s, want %s", n, i, m.At, want)
		}
	}
}

func TestHistoryAndTheClock(t *testing.T) {
	at := func(d time.Duration) reading { return newReading(began.Add(d), sandbox.Stats{}) }
	for _, c := range []struct {
		name  string
		later time.Duration // of the third reading; the second is 5 s after the first
		want  int
	}{
		{"forward", 10 * time.Second, 3},
		{"the same moment", 5 * time.Second, 2},
		{"a reading that comes late", 4500 * time.Millisecond, 2},
		{"the clock was set back", -time.Hour, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h history
			h.add(at(0))
			h.add(at(5 * time.Second))
			h.add(at(c.later))
			if n, _ := h.size(); n != c.want {
				t.Errorf("%d readings, want %d", n, c.want)
			}
		})
	}
}

func TestMetricOfReadings(t *testing.T) {
	limits := sandbox.Limits{CPUs: 2, MemoryBytes: 1000, DiskBytes: 5000}
	before := newReading(began, sandbox.Stats{CPUTime: time.Second})
	for _, c := range []struct {
		name  string
		after time.Duration
		stats sandbox.Stats
		want  Metric
	}{
		{
			"ordinary", 4 * time.Second,
			sandbox.Stats{CPUTime: 2 * time.Second, MemoryBytes: 700, CacheBytes: 300, DiskBytes: 40},
			Metric{CPUPercent: 12.5, MemoryUsed: 400, MemoryCache: 300, DiskUsed: 40},
		},
		{"rounded", 3 * time.Second, sandbox.Stats{CPUTime: 2 * time.Second}, Metric{CPUPercent: 16.67}},
		{"more than there is", time.Second, sandbox.Stats{CPUTime: 9 * time.Second}, Metric{CPUPercent: 100}},
		{"the account began anew", time.Second, sandbox.Stats{}, Metric{}},
		{"no time passed", 0, sandbox.Stats{CPUTime: 9 * time.Second}, Metric{}},
		{"cache counted before memory", time.Second, sandbox.Stats{CPUTime: time.Second, MemoryBytes: 10, CacheBytes: 11}, Metric{MemoryCache: 11}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.At, c.want.CPUs = began.Add(c.after), 2
			c.want.MemoryTotal, c.want.DiskTotal = 1000, 5000
			if got := newReading(c.want.At, c.stats).metric(before, limits); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
