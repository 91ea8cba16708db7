package edge

import (
	"encoding/json"
	"net/http"

	"github.com/sandlot-dev/sandlot/internal/control"
)

// metricsPath is answered here and not by the agent: a sandbox cannot see its
// own accounts, and what it says of itself nobody needs to believe.
const metricsPath = "/metrics"

// metricsBody is what E2B's agent answers: bytes, but for the fields that say MiB.
type metricsBody struct {
	Time       int64   `json:"ts"` // Unix, seconds
	CPUs       int     `json:"cpu_count"`
	CPUPercent float64 `json:"cpu_used_pct"`
	MemTotal   int64   `json:"mem_total"`
	MemUsed    int64   `json:"mem_used"`
	MemCache   int64   `json:"mem_cache"`
	MemTotalMB int64   `json:"mem_total_mib"`
	MemUsedMB  int64   `json:"mem_used_mib"`
	DiskUsed   int64   `json:"disk_used"`
	DiskTotal  int64   `json:"disk_total"`
}

func toMetrics(m control.Metric) metricsBody {
	return metricsBody{
		Time: m.At.Unix(), CPUs: m.CPUs, CPUPercent: m.CPUPercent,
		MemTotal: m.MemoryTotal, MemUsed: m.MemoryUsed, MemCache: m.MemoryCache,
		MemTotalMB: m.MemoryTotal >> 20, MemUsedMB: m.MemoryUsed >> 20,
		DiskUsed: m.DiskUsed, DiskTotal: m.DiskTotal,
	}
}

// metrics answers what a sandbox uses now.
func (e *Edge) metrics(w http.ResponseWriter, r *http.Request, t target) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	m, err := e.registry.CurrentMetric(r.Context(), t.id)
	if err != nil {
		if r.Context().Err() == nil { // else the client went away
			e.fail(w, r, t, err)
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(toMetrics(m)) // the client has gone: nobody to tell
}
