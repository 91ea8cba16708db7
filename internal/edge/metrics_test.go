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
	ask := func(method string, reply any) (status int, kind string) {
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
		defer resp.Body.Close()
		if reply != nil {
			if err := json.NewDecoder(resp.Body).Decode(reply); err != nil {
				t.Fatal(err)
			}
		}
		return resp.StatusCode, resp.Header.Get("Content-Type")
	}
	var got map[string]float64
	if status, kind := ask(http.MethodGet, &got); status != http.StatusOK || kind != "application/json" {
		t.Errorf("%d %s", status, kind)
	}
	want := map[string]float64{
		"ts": 1767323045, "cpu_count": 2, "cpu_used_pct": 12.5,
		"mem_total": 1 << 30, "mem_used": 3<<20 + 1, "mem_cache": 1 << 20, "mem_total_mib": 1024, "mem_used_mib": 3,
		"disk_used": 4096, "disk_total": 10 << 30,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if status, _ := ask(http.MethodPost, nil); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", status)
	}
}
