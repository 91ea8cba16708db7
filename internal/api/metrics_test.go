package api_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

func TestSandboxMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		r.host.stats = sandbox.Stats{MemoryBytes: 5 << 20, CacheBytes: 2 << 20, DiskBytes: 4096}
		id := r.create(t, `{"templateID":"base","timeout":3600}`).SandboxID
		path := "/sandboxes/" + id + "/metrics"
		all := as[[]rest.SandboxMetric](t, r.do(t, http.MethodGet, path, nil), http.StatusOK)
		now, l := time.Now().UTC(), sandbox.DefaultLimits()
		want := []rest.SandboxMetric{{
			Timestamp: now, TimestampUnix: now.Unix(), CPUCount: l.CPUs,
			MemUsed: 3 << 20, MemCache: 2 << 20, MemTotal: l.MemoryBytes, DiskUsed: 4096, DiskTotal: l.DiskBytes,
		}}
		if d := cmp.Diff(want, all); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		time.Sleep(time.Minute)
		all = as[[]rest.SandboxMetric](t, r.do(t, http.MethodGet, path, nil), http.StatusOK)
		if len(all) != 13 {
			t.Errorf("%d metrics after a minute", len(all))
		}
		window := fmt.Sprintf("%s?start=%d&end=%d", path, all[3].TimestampUnix, all[5].TimestampUnix)
		some := as[[]rest.SandboxMetric](t, r.do(t, http.MethodGet, window, nil), http.StatusOK)
		if d := cmp.Diff(all[3:6], some); d != "" {
			t.Errorf("both ends are included (-want +got):\n%s", d)
		}
		none := r.do(t, http.MethodGet, path+"?end=1", nil)
		if body := strings.TrimSpace(none.Body.String()); none.Code != http.StatusOK || body != "[]" {
			t.Errorf("a window without metrics: %d %s", none.Code, body)
		}
		of := as[rest.SandboxesMetrics](t, r.do(t, http.MethodGet, "/sandboxes/metrics?sandbox_ids="+id+",inobody", nil), http.StatusOK)
		if d := cmp.Diff(map[string]rest.SandboxMetric{id: all[12]}, of.Sandboxes); d != "" {
			t.Errorf("of several (-want +got):\n%s", d)
		}
	})
}

func TestSandboxMetricsRefused(t *testing.T) {
	r := start(t, control.Options{})
	id := r.create(t, `{"templateID":"base"}`).SandboxID
	for path, status := range map[string]int{
		"/sandboxes/inobody/metrics":                                             404,
		"/sandboxes/" + string(sandbox.NewID()) + "/metrics":                     404,
		"/sandboxes/" + id + "/metrics?start=-1":                                 400,
		"/sandboxes/" + id + "/metrics?start=2&end=1":                            400,
		"/sandboxes/" + id + "/metrics?start=yesterday":                          400,
		"/sandboxes/" + id + "/metrics?end=99999999999999999999":                 400,
		"/sandboxes/" + id + "/metrics?from=1":                                   400,
		"/sandboxes/metrics":                                                     400,
		"/sandboxes/metrics?sandbox_ids=":                                        400,
		"/sandboxes/metrics?sandbox_ids=" + strings.Repeat("ia,", 100) + "ib":    400,
		"/sandboxes/metrics?sandbox_ids=" + string(sandbox.NewID()) + "&limit=1": 400,
		"/sandboxes/metrics?sandbox_ids=" + string(sandbox.NewID()):              200,
	} {
		if w := r.do(t, http.MethodGet, path, nil); w.Code != status {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, status)
		}
	}
}
