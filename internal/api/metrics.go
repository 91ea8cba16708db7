package api

import (
	"net/http"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// lastSecond is the latest Unix time taken: the year 9999, so that no sum
// overflows.
const lastSecond = 253402300799

func (s *server) sandboxMetrics(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, "start", "end")
	if q.err != nil {
		return q.err
	}
	start, end := q.integer("start", 0, lastSecond, 0), q.integer("end", 0, lastSecond, lastSecond)
	if start > end {
		q.fail("start must not be later than end")
	}
	if q.err != nil {
		return q.err
	}
	// The whole second end is asked for.
	all, err := s.control.Metrics(r.Context(), sandboxID(r), time.Unix(int64(start), 0), time.Unix(int64(end)+1, 0))
	if err != nil {
		return err
	}
	return s.writeJSON(w, http.StatusOK, toList(all, toMetric))
}

func (s *server) metricsOfSandboxes(w http.ResponseWriter, r *http.Request) error {
	q := parseQuery(r, "sandbox_ids")
	if q.err != nil {
		return q.err
	}
	var ids []sandbox.ID
	for id := range strings.SplitSeq(q.text("sandbox_ids"), ",") {
		if id != "" {
			ids = append(ids, sandbox.ID(id))
		}
	}
	if len(ids) == 0 {
		return errs.New(errs.Invalid, "sandbox_ids is missing: name one to %d sandboxes, joined by commas", control.MaxMetricsOf)
	}
	found, err := s.control.MetricsOf(r.Context(), ids)
	if err != nil {
		return err
	}
	reply := rest.SandboxesMetrics{Sandboxes: make(map[string]rest.SandboxMetric, len(found))}
	for id, m := range found {
		reply.Sandboxes[string(id)] = toMetric(m)
	}
	return s.writeJSON(w, http.StatusOK, reply)
}

func toMetric(m control.Metric) rest.SandboxMetric {
	return rest.SandboxMetric{
		Timestamp: m.At, TimestampUnix: m.At.Unix(), CPUCount: m.CPUs, CPUUsedPct: m.CPUPercent,
		MemUsed: m.MemoryUsed, MemTotal: m.MemoryTotal, MemCache: m.MemoryCache,
		DiskUsed: m.DiskUsed, DiskTotal: m.DiskTotal,
	}
}
