package edge

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/control"
)

// The server answers what a sandbox uses itself: the agent could say anything.
func TestMetrics(t *testing.T) {
	s := start(t, control.Sandbox{}, echoPath("agent"), echoPath("port"))
	ask := func(method string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("E2b-Sandbox-Id", string(liveID))
		req.Header.Set("X-Access-Token", token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	resp := ask(http.MethodGet)
	var got map[string]float64
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"ts": 1767323045, "cpu_count": 2, "cpu_used_pct": 12.5,
		"mem_total": 1 << 30, "mem_used": 3<<20 + 1, "mem_cache": 1 << 20, "mem_total_mib": 1024, "mem_used_mib": 3,
		"disk_used": 4096, "disk_total": 10 << 30,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if kind := resp.Header.Get("Content-Type"); kind != "application/json" {
		t.Errorf("content type %q", kind)
	}
	if resp := ask(http.MethodPost); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}
