package client_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/client"
)

// load keeps one processor busy, 96 MiB of memory occupied, and 48 MiB of disk
// written, until it is killed.
const load = `python3 -c '
held = b"x" * (96 << 20)
with open("/home/user/big", "wb") as f: f.write(held[:48 << 20])
while True: pass'`

// realMetrics loads a sandbox and sees its figures move, and no other's.
func realMetrics(t *testing.T, c *client.Client, sbx *client.Sandbox) {
	t.Helper()
	quiet := create(t, c)
	before := latest(t, sbx)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { _, err := sbx.Commands.Run(ctx, load); ended <- err }()
	var loaded client.Metric
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if loaded = latest(t, sbx); loaded.CPUPercent > 10 && loaded.DiskUsed-before.DiskUsed >= 48<<20 {
			break
		}
	}
	now := current(t, c, sbx.ID) // while the load is on
	stop()
	if err := <-ended; err == nil {
		t.Error("the load ended by itself")
	}
	t.Logf("before %+v", before)
	t.Logf("loaded %+v", loaded)
	for name, grew := range map[string]struct{ by, low, high int64 }{
		"memory":              {loaded.MemoryUsed - before.MemoryUsed, 96 << 20, 160 << 20},
		"disk":                {loaded.DiskUsed - before.DiskUsed, 48 << 20, 64 << 20},
		"memory, agent's":     {now.Memory - before.MemoryUsed, 96 << 20, 160 << 20},
		"disk, agent's":       {now.Disk - before.DiskUsed, 48 << 20, 64 << 20},
		"processors, agent's": {int64(now.CPU), 5, 60},
		"processors":          {int64(loaded.CPUPercent), 10, 60}, // one of two
		"the agent's clock":   {now.Time - loaded.At.Unix(), 0, 60},
	} {
		if grew.by < grew.low || grew.by > grew.high {
			t.Errorf("%s: %d, want %d to %d", name, grew.by, grew.low, grew.high)
		}
	}
	if m := latest(t, quiet); m.MemoryUsed > 48<<20 || m.DiskUsed > 16<<20 || m.CPUs != 2 || m.MemoryTotal != 1<<30 || m.DiskTotal != 10<<30 {
		t.Errorf("a sandbox that does nothing has %+v", m)
	}
}

func latest(t *testing.T, sbx *client.Sandbox) client.Metric {
	t.Helper()
	all, err := sbx.Metrics(t.Context(), time.Time{}, time.Time{})
	if err != nil || len(all) == 0 {
		t.Fatalf("%d metrics, %v", len(all), err)
	}
	return all[len(all)-1]
}

// agentMetrics is what the data plane's route says, in E2B's names.
type agentMetrics struct {
	Time   int64   `json:"ts"`
	CPU    float64 `json:"cpu_used_pct"`
	Memory int64   `json:"mem_used"`
	Disk   int64   `json:"disk_used"`
}

// current asks as a program would that has the sandbox's token.
func current(t *testing.T, c *client.Client, id string) (m agentMetrics) {
	t.Helper()
	var box struct {
		Token string `json:"envdAccessToken"`
	}
	fetch(t, c.APIURL()+"/sandboxes/"+id, http.Header{"X-Api-Key": {c.APIKey()}}, &box)
	fetch(t, c.APIURL()+"/metrics", http.Header{"E2b-Sandbox-Id": {id}, "X-Access-Token": {box.Token}}, &m)
	return m
}

func fetch(t *testing.T, url string, header http.Header, out any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
}
