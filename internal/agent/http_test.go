package agent_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// do sends a request and returns status, header and body.
func (a *testAgent) do(t *testing.T, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := a.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(got)
}

func (a *testAgent) init(t *testing.T, body string) {
	t.Helper()
	if status, _, reply := a.do(t, http.MethodPost, "/sandlot/init", body); status != http.StatusNoContent {
		t.Fatalf("init: %d %s", status, reply)
	}
}

// wantError checks a JSON error body.
func wantError(t *testing.T, what string, status int, body string, want int) {
	t.Helper()
	var e struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || status != want || e.Code != want || e.Message == "" {
		t.Errorf("%s: %d %q, want a JSON error with %d", what, status, body, want)
	}
}

func TestRoutes(t *testing.T) {
	a := startAgent(t)
	if status, _, body := a.do(t, http.MethodGet, "/health", ""); status != 204 || body != "" {
		t.Errorf("health: %d %q", status, body)
	}
	if status, _, _ := a.do(t, http.MethodHead, "/health", ""); status != 204 {
		t.Errorf("health by HEAD: %d", status)
	}
	if _, _, body := a.do(t, http.MethodGet, "/envs", ""); body != "{}\n" {
		t.Errorf("envs before init: %q", body)
	}
	a.init(t, `{"env":{"K":"v"},"later_field":1}`)
	if _, _, body := a.do(t, http.MethodGet, "/envs", ""); body != `{"K":"v"}`+"\n" {
		t.Errorf("envs: %q", body)
	}
	for what, test := range map[string]struct {
		method, path, body string
		status             int
	}{
		"unknown path":   {http.MethodGet, "/metrics", "", 404},
		"wrong method":   {http.MethodDelete, "/files", "", 405},
		"init not JSON":  {http.MethodPost, "/sandlot/init", "{", 400},
		"init not a map": {http.MethodPost, "/sandlot/init", `{"env":[1]}`, 400},
		"init too long":  {http.MethodPost, "/sandlot/init", strings.Repeat(" ", 5<<20), 400},
		"unknown user":   {http.MethodPost, "/sandlot/init", `{"default_user":"nobody-of-that-name"}`, 400},
	} {
		status, _, body := a.do(t, test.method, test.path, test.body)
		wantError(t, what, status, body, test.status)
	}
	if _, _, body := a.do(t, http.MethodGet, "/envs", ""); body != `{"K":"v"}`+"\n" {
		t.Errorf("a refused init changed the environment: %q", body)
	}
}

func TestConnectTarget(t *testing.T) {
	a := startAgent(t)
	for target, want := range map[string]string{
		"localhost:1":           "502",
		"127.0.0.1:1":           "400",
		"[::1]:1":               "400",
		"localhost:99999":       "400",
		"example.com:80":        "400",
		"localhost":             "400",
		"metadata.internal:123": "400",
	} {
		conn, err := a.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\nConnection: close\r\n\r\n")
		reply, _ := io.ReadAll(conn)
		_ = conn.Close()
		if !strings.HasPrefix(string(reply), "HTTP/1.1 "+want+" ") || !strings.Contains(string(reply), `{"code":`+want) {
			t.Errorf("CONNECT %s: %q, want %s", target, reply, want)
		}
	}
}
