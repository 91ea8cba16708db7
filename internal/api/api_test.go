package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store/sqlite"
)

func TestHealth(t *testing.T) {
	r := start(t, control.Options{})
	if w := r.send(t, r.request(t, http.MethodGet, "/health", nil)); w.Code != http.StatusNoContent {
		t.Errorf("status %d, want 204", w.Code)
	}
}

// TestCreateBodies sends what the official SDKs send by default, and the same
// with every option that asks for nothing.
func TestCreateBodies(t *testing.T) {
	for _, tc := range []struct {
		name, path, body string
		timeout          time.Duration
	}{
		{"SDK 2.51", "/v2/sandboxes", `{"templateID":"base","timeout":300}`, 300 * time.Second},
		{"SDK 2.45", "/sandboxes", `{"templateID":"base","timeout":300,"secure":true,"allow_internet_access":true}`, 300 * time.Second},
		{"default of v1", "/sandboxes", `{"templateID":"base"}`, 15 * time.Second},
		{"default of v2", "/v2/sandboxes", `{"templateID":"base"}`, 300 * time.Second},
		{"timeout null", "/v2/sandboxes", `{"templateID":"base","timeout":null}`, 300 * time.Second},
		{"template by ID", "/v2/sandboxes", `{"templateID":"t0000000000000000000"}`, 300 * time.Second},
		{"lifecycle kill", "/v2/sandboxes", `{"templateID":"base","autoPause":false,"autoPauseMemory":true,"autoResume":{"enabled":false}}`, 300 * time.Second},
		{"empty options", "/v2/sandboxes", `{"templateID":"base","metadata":{},"envVars":{},"network":{"allowOut":[],"denyOut":[],"rules":{},"httpsPorts":[],"allowPublicTraffic":true,"egressProxy":null,"maskRequestHost":null},"iam":{"tokens":{}},"mcp":null,"volumeMounts":[],"allow_internet_access":true}`, 300 * time.Second},
		{"nulls", "/v2/sandboxes", `{"templateID":"base","metadata":null,"envVars":null,"network":null,"iam":null,"autoResume":null,"volumeMounts":null,"allow_internet_access":null,"autoPause":null}`, 300 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, control.Options{})
				s := as[rest.Sandbox](t, r.do(t, http.MethodPost, tc.path, tc.body), http.StatusCreated)
				if s.EnvdAccessToken == nil || s.TemplateID != base.ID || s.ClientID == "" || s.Domain != nil {
					t.Errorf("reply %+v", s)
				}
				got, err := r.control.Get(sandbox.ID(s.SandboxID))
				if err != nil || got.EndAt.Sub(got.StartedAt) != tc.timeout {
					t.Errorf("lives %v, want %v (%v)", got.EndAt.Sub(got.StartedAt), tc.timeout, err)
				}
			})
		})
	}
}

func TestCreatePassesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{Domain: "sandlot.localhost:7280"})
		s := r.create(t, `{"templateID":"base","timeout":60,"metadata":{"user":"ann"},"envVars":{"A":"1"},"network":{"allowPublicTraffic":true},"allow_internet_access":true}`)
		if s.Domain == nil || *s.Domain != "sandlot.localhost:7280" {
			t.Errorf("domain %v", s.Domain)
		}
		if d := cmp.Diff(map[string]string{"A": "1"}, r.host.last.Env); d != "" || r.host.last.Template.ID != base.ID {
			t.Errorf("launched with %+v", r.host.last)
		}
		now := time.Now().UTC()
		yes, domain, alias := true, "sandlot.localhost:7280", "base"
		want := rest.SandboxDetail{
			SandboxID: s.SandboxID, TemplateID: base.ID, Alias: &alias, ClientID: s.ClientID,
			EnvdVersion: "0.6.13", EnvdAccessToken: s.EnvdAccessToken, Domain: &domain,
			StartedAt: now, EndAt: now.Add(time.Minute), CPUCount: 2, MemoryMB: 1024, DiskSizeMB: 10240,
			State: rest.Running, Metadata: rest.StringMap{"user": "ann"},
			Network: &rest.NetworkConfig{AllowPublicTraffic: &yes}, AllowInternetAccess: &yes,
			Lifecycle: &rest.Lifecycle{OnTimeout: rest.Kill},
		}
		got := as[rest.SandboxDetail](t, r.do(t, http.MethodGet, "/sandboxes/"+s.SandboxID, nil), http.StatusOK)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("detail (-want +got):\n%s", d)
		}
	})
}

func TestLifecycle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		s := r.create(t, `{"templateID":"base","timeout":60}`)
		path := "/sandboxes/" + s.SandboxID
		lives := func(want time.Duration) {
			t.Helper()
			d := as[rest.SandboxDetail](t, r.do(t, http.MethodGet, path, nil), http.StatusOK)
			if got := time.Until(d.EndAt); got != want {
				t.Errorf("lives for %v, want %v", got, want)
			}
		}
		post := func(path, body string, status int) {
			t.Helper()
			if w := r.do(t, http.MethodPost, path, body); w.Code != status {
				t.Errorf("POST %s %s: %d %s", path, body, w.Code, w.Body)
			}
		}
		lives(60 * time.Second)
		post(path+"/timeout", `{"timeout":10}`, http.StatusNoContent)
		lives(10 * time.Second)
		post(path+"/refreshes", `{"duration":20}`, http.StatusNoContent)
		lives(20 * time.Second)
		post(path+"/refreshes", ``, http.StatusNoContent)
		lives(20 * time.Second)
		post(path+"/connect", `{"timeout":30}`, http.StatusOK)
		lives(30 * time.Second)
		post("/v2"+path+"/connect", `{"timeout":5}`, http.StatusOK)
		lives(30 * time.Second)
		post("/v2"+path+"/connect", `{"memory":false}`, http.StatusOK)
		lives(300 * time.Second)
		post("/v2"+path+"/connect", ``, http.StatusOK)
		again := as[rest.Sandbox](t, r.do(t, http.MethodPost, "/v2"+path+"/connect", `{}`), http.StatusOK)
		if d := cmp.Diff(s, again); d != "" {
			t.Errorf("connect replies otherwise than create (-create +connect):\n%s", d)
		}
		if w := r.do(t, http.MethodDelete, path, nil); w.Code != http.StatusNoContent || w.Body.Len() != 0 {
			t.Errorf("DELETE: %d %s", w.Code, w.Body)
		}
		if w := r.do(t, http.MethodDelete, path, nil); w.Code != http.StatusNotFound {
			t.Errorf("second DELETE: %d %s", w.Code, w.Body)
		}
	})
}

func TestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		var ids []string
		for i := range 3 {
			s := r.create(t, map[string]any{"templateID": "base", "metadata": map[string]string{"n": fmt.Sprint(i), "a b&=%": "c+d/é"}})
			ids = append(ids, s.SandboxID)
			time.Sleep(time.Second)
		}
		odd := url.Values{url.PathEscape("a b&=%"): {url.PathEscape("c+d/é")}, "n": {"1"}}.Encode()
		after := time.Now().Add(-2500 * time.Millisecond).UTC().Format(time.RFC3339Nano)
		for query, want := range map[string][]int{
			"":                                       {2, 1, 0},
			"order=asc":                              {0, 1, 2},
			"state=running":                          {2, 1, 0},
			"state=running,paused":                   {2, 1, 0},
			"state=running&state=paused":             {2, 1, 0},
			"state=paused":                           {},
			"template=base":                          {2, 1, 0},
			"template=other":                         {},
			"startedAfter=" + url.QueryEscape(after): {2, 1},
			"metadata=" + url.QueryEscape("n=2"):     {2},
			"metadata=" + url.QueryEscape(odd):       {1},
			"metadata=n%3D2&limit=1&order=asc&state=paused": {},
		} {
			w := r.do(t, http.MethodGet, "/v2/sandboxes?"+query, nil)
			got := as[[]rest.ListedSandbox](t, w, http.StatusOK)
			var gotIDs, wantIDs []string
			for _, s := range got {
				gotIDs = append(gotIDs, s.SandboxID)
			}
			for _, i := range want {
				wantIDs = append(wantIDs, ids[i])
			}
			if d := cmp.Diff(wantIDs, gotIDs); d != "" {
				t.Errorf("?%s (-want +got):\n%s", query, d)
			}
			if total := w.Header().Get("X-Total-Running"); total != fmt.Sprint(len(want)) {
				t.Errorf("?%s: X-Total-Running %q", query, total)
			}
			if _, ok := w.Header()["X-Next-Token"]; ok {
				t.Errorf("?%s: X-Next-Token on the last page", query)
			}
			if strings.TrimSpace(w.Body.String()) == "null" {
				t.Errorf("?%s: null instead of an empty array", query)
			}
		}
		old := as[[]rest.ListedSandbox](t, r.do(t, http.MethodGet, "/sandboxes?metadata=n%3D0", nil), http.StatusOK)
		if len(old) != 1 || old[0].SandboxID != ids[0] {
			t.Errorf("GET /sandboxes: %+v", old)
		}
	})
}

func TestListPages(t *testing.T) {
	r := start(t, control.Options{})
	for range 5 {
		r.create(t, `{"templateID":"base"}`)
	}
	seen := make(map[string]bool)
	query, pages := "?limit=2", 0
	for query != "" {
		w := r.do(t, http.MethodGet, "/v2/sandboxes"+query, nil)
		for _, s := range as[[]rest.ListedSandbox](t, w, http.StatusOK) {
			if seen[s.SandboxID] {
				t.Errorf("%s is on two pages", s.SandboxID)
			}
			seen[s.SandboxID] = true
		}
		pages++
		query = ""
		if next := w.Header().Get("X-Next-Token"); next != "" {
			query = "?limit=2&nextToken=" + url.QueryEscape(next)
		}
	}
	if len(seen) != 5 || pages != 3 {
		t.Errorf("%d sandboxes on %d pages, want 5 on 3", len(seen), pages)
	}
}

func TestTemplates(t *testing.T) {
	r := start(t, control.Options{})
	r.create(t, `{"templateID":"base"}`)
	all := as[[]rest.Template](t, r.do(t, http.MethodGet, "/templates?teamID=x", nil), http.StatusOK)
	if len(all) != 1 || all[0].TemplateID != base.ID || all[0].SpawnCount != 1 || all[0].LastSpawnedAt == nil || all[0].MemoryMB != 1024 {
		t.Errorf("templates %+v", all)
	}
	one := as[rest.TemplateAlias](t, r.do(t, http.MethodGet, "/templates/aliases/base", nil), http.StatusOK)
	if one.TemplateID != base.ID || !one.Public {
		t.Errorf("alias %+v", one)
	}
}

func TestKeys(t *testing.T) {
	r := start(t, control.Options{})
	made := as[rest.CreatedAPIKey](t, r.do(t, http.MethodPost, "/api-keys", `{"name":"ci"}`), http.StatusCreated)
	if made.Name != "ci" || made.Mask.ValueLength != 40 || !strings.HasPrefix(made.Key, made.Mask.Prefix+made.Mask.MaskedValuePrefix) {
		t.Errorf("made %+v", made)
	}
	w := r.do(t, http.MethodGet, "/api-keys", nil)
	all := as[[]rest.APIKey](t, w, http.StatusOK)
	if len(all) != 2 || strings.Contains(w.Body.String(), made.Key) {
		t.Errorf("keys: %s", w.Body)
	}
	r.key = made.Key
	for _, k := range all {
		want := http.StatusNoContent
		if k.ID == made.ID {
			want = http.StatusConflict // by then it is the last
		}
		if w := r.do(t, http.MethodDelete, "/api-keys/"+k.ID, nil); w.Code != want {
			t.Errorf("revoke %s: %d %s", k.Name, w.Code, w.Body)
		}
	}
}

// BenchmarkCreate measures what the control plane adds to a launch: HTTP over
// loopback, JSON, the registry on disk.
func BenchmarkCreate(b *testing.B) {
	s, err := sqlite.Open(b.Context(), filepath.Join(b.TempDir(), "registry.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r := startOn(b, control.Options{MaxSandboxes: 1 << 30}, s)
	server := httptest.NewServer(r.handler)
	defer server.Close()
	for b.Loop() {
		body := strings.NewReader(`{"templateID":"base","timeout":300,"metadata":{"user":"ann"}}`)
		req, _ := http.NewRequestWithContext(b.Context(), http.MethodPost, server.URL+"/v2/sandboxes", body)
		req.Header.Set("X-API-Key", r.key)
		resp, err := server.Client().Do(req)
		if err != nil {
			b.Fatal(err)
		}
		var made rest.Sandbox
		if err := json.NewDecoder(resp.Body).Decode(&made); err != nil || resp.StatusCode != http.StatusCreated {
			b.Fatal(resp.Status, err)
		}
		resp.Body.Close()
	}
}
