package control_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

var always = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// busy makes every sandbox of r keep one processor busy from now on.
func (r *rig) busy() {
	began := time.Now()
	r.host.measuring(func() (sandbox.Stats, error) {
		return sandbox.Stats{CPUTime: time.Since(began), MemoryBytes: 3 << 20, CacheBytes: 1 << 20, DiskBytes: 4096}, nil
	})
}

func (r *rig) metrics(t *testing.T, id sandbox.ID) []control.Metric {
	t.Helper()
	all, err := r.Metrics(t.Context(), id, time.Time{}, always)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A sandbox is sampled every five seconds while it runs, and asked about at
// once if it is too young for that.
func TestMetricsOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		r.busy()
		time.Sleep(time.Second)
		s := r.create(t, time.Hour)
		asked := time.Now()
		first := r.metrics(t, s.ID)
		if len(first) != 1 || time.Since(asked) != 100*time.Millisecond {
			t.Fatalf("right after create: %d metrics in %s, want one in 100ms", len(first), time.Since(asked))
		}
		l := sandbox.DefaultLimits()
		want := control.Metric{
			At: time.Now().UTC(), CPUs: l.CPUs, CPUPercent: 50,
			MemoryUsed: 2 << 20, MemoryCache: 1 << 20, MemoryTotal: l.MemoryBytes, DiskUsed: 4096, DiskTotal: l.DiskBytes,
		}
		if first[0] != want {
			t.Errorf("metric is %+v, want %+v", first[0], want)
		}
		time.Sleep(time.Minute)
		all := r.metrics(t, s.ID)
		if len(all) != 1+12 {
			t.Errorf("%d metrics after a minute, want 13", len(all))
		}
		for i, m := range all[1:] {
			if m.CPUPercent != 50 || i > 0 && m.At.Sub(all[i].At) != 5*time.Second {
				t.Errorf("metric %d: %v %% at %s", i, m.CPUPercent, m.At)
			}
		}
	})
}

func TestMetricsBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		s := r.create(t, time.Hour)
		began := time.Now()
		time.Sleep(61 * time.Second)
		for _, c := range []struct {
			name        string
			from, until time.Duration
			want        int
		}{
			{"everything", 0, time.Hour, 11},
			{"with its beginning and without its end", 20 * time.Second, 30 * time.Second, 2},
			{"nothing yet", time.Hour, 2 * time.Hour, 0},
		} {
			got, err := r.Metrics(t.Context(), s.ID, began.Add(c.from), began.Add(c.until))
			if err != nil || got == nil || len(got) != c.want {
				t.Errorf("%s: %d metrics, %v; want %d", c.name, len(got), err, c.want)
			}
		}
	})
}

func TestMetricsOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		_, err := r.Metrics(t.Context(), sandbox.NewID(), time.Time{}, always)
		wantKind(t, err, errs.NotFound)
		s := r.create(t, time.Minute)
		time.Sleep(2 * time.Minute)
		_, err = r.Metrics(t.Context(), s.ID, time.Time{}, always)
		wantKind(t, err, errs.NotFound)
		_, err = r.CurrentMetric(t.Context(), s.ID)
		wantKind(t, err, errs.NotFound)
		s = r.create(t, time.Minute)
		r.host.die(s.ID) // and nobody has noticed yet
		_, err = r.Metrics(t.Context(), s.ID, time.Time{}, always)
		wantKind(t, err, errs.NotFound)
		r.host.measuring(func() (sandbox.Stats, error) { return sandbox.Stats{}, errFault })
		s = r.create(t, time.Minute)
		if _, err = r.Metrics(t.Context(), s.ID, time.Time{}, always); !errors.Is(err, errFault) {
			t.Errorf("a host that cannot measure: %v", err)
		}
		time.Sleep(20 * time.Second) // the sampler goes on
		r.busy()
		if all := r.metrics(t, s.ID); len(all) != 1 {
			t.Errorf("%d metrics once it can", len(all))
		}
	})
}

func TestMetricsOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		r.busy()
		ids := []sandbox.ID{sandbox.NewID()}
		for range 99 {
			ids = append(ids, r.create(t, time.Hour).ID)
		}
		asked := time.Now()
		found, err := r.MetricsOf(t.Context(), ids)
		if err != nil || len(found) != 99 || time.Since(asked) != 100*time.Millisecond {
			t.Errorf("%d of 99 metrics in %s: %v", len(found), time.Since(asked), err)
		}
		time.Sleep(time.Hour / 2)
		found, err = r.MetricsOf(t.Context(), ids[:2])
		if m, ok := found[ids[1]]; err != nil || !ok || time.Since(m.At) > 5*time.Second {
			t.Errorf("the latest is %+v, %v", m, err)
		}
		_, err = r.MetricsOf(t.Context(), append(ids, ids[0]))
		wantKind(t, err, errs.Invalid)
	})
}

// The metric of this moment is as fresh as that, and needs no sample of it.
func TestCurrentMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		r.busy()
		s := r.create(t, time.Hour)
		for range 3 {
			m, err := r.CurrentMetric(t.Context(), s.ID)
			if err != nil || m.CPUPercent != 50 || time.Since(m.At) > time.Millisecond {
				t.Errorf("%+v, %v", m, err)
			}
			time.Sleep(3 * time.Second)
		}
		if n := len(r.metrics(t, s.ID)); n != 2 {
			t.Errorf("asking made samples: %d metrics after 9 s, want 2", n)
		}
	})
}

// Who goes away while a young sandbox is measured is not waited for.
func TestMetricsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		s := r.create(t, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		asked := time.Now()
		if _, err := r.Metrics(ctx, s.ID, time.Time{}, always); !errors.Is(err, context.DeadlineExceeded) || time.Since(asked) > time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(asked))
		}
	})
}
