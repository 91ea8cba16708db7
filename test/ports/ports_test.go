// Package ports_test reaches servers inside real sandboxes through the real
// binary: what passes, what the options of a create change, what must stay out
// of reach, and how the server and the agent bear very many and very bad
// connections.
package ports_test

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/test/harness"
)

//go:embed server.py
var serverSource []byte

// box is a sandbox and the secrets its create returned.
type box struct {
	*client.Sandbox
	server  *harness.Server
	Token   string `json:"envdAccessToken"`
	Traffic string `json:"trafficAccessToken"`
}

// create makes a sandbox by a request of its own, since it says what SDKs say
// in their options.
func create(t *testing.T, s *harness.Server, path, body string) *box {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", s.Key)
	a := send(t, req)
	made := struct {
		*box
		ID string `json:"sandboxID"`
	}{box: &box{server: s}}
	if err := json.Unmarshal(a.body, &made); a.status != http.StatusCreated || err != nil {
		t.Fatalf("create: %d %s", a.status, a.body)
	}
	c, err := client.New(client.Options{APIURL: s.URL, SandboxURL: s.URL, APIKey: s.Key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	made.Sandbox, err = c.Connect(t.Context(), made.ID)
	if err != nil {
		t.Fatal(err)
	}
	return made.box
}

// serve starts server.py inside and waits for it.
func (b *box) serve(t *testing.T, port int, more string) {
	t.Helper()
	b.write(t, "/tmp/server.py", serverSource)
	if _, err := b.Commands.Start(t.Context(), fmt.Sprintf("exec python3 /tmp/server.py %d %s", port, more)); err != nil {
		t.Fatal(err)
	}
	b.run(t, fmt.Sprintf("for i in $(seq 200); do (: </dev/tcp/127.0.0.1/%d) 2>/dev/null && exit; sleep 0.05; done; exit 1", port))
}

func (b *box) write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := b.Files.Write(t.Context(), path, data); err != nil {
		t.Fatal(err)
	}
}

// run runs a line as root and returns what it printed.
func (b *box) run(t *testing.T, line string) string {
	t.Helper()
	res, err := b.Commands.Run(t.Context(), line, client.AsUser("root"))
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return strings.TrimSpace(res.Stdout)
}

func (b *box) number(t *testing.T, line string) int {
	t.Helper()
	n, err := strconv.Atoi(b.run(t, line))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func send(t *testing.T, req *http.Request) answer {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, body}
}

// to makes a request for a port; headers come in pairs.
func (b *box) to(t *testing.T, method string, port int, path string, body io.Reader, headers ...string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.server.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("E2b-Sandbox-Id", b.ID)
	req.Header.Set("E2b-Sandbox-Port", strconv.Itoa(port))
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

func (b *box) get(t *testing.T, port int, path string, headers ...string) answer {
	t.Helper()
	return send(t, b.to(t, http.MethodGet, port, path, nil, headers...))
}

// Closed traffic, a mask for the host and TLS inside, before and after the
// server has been killed.
func TestNetworkOptions(t *testing.T) {
	s := harness.Start(t, harness.Options{})
	b := create(t, s, "/v2/sandboxes", `{"templateID":"base","network":{"allowPublicTraffic":false,"maskRequestHost":"app.test:${PORT}","httpsPorts":[8443]}}`)
	if b.Traffic == "" {
		t.Fatal("create returned no trafficAccessToken")
	}
	b.run(t, "cd /tmp && openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 1 -subj /CN=inside 2>/dev/null && cat k.pem c.pem >tls.pem && chmod 644 tls.pem")
	b.serve(t, 8000, "")
	b.serve(t, 8443, "/tmp/tls.pem")
	check := func() {
		t.Helper()
		for _, given := range []string{"", "guess", b.Token} {
			if a := b.get(t, 8000, "/", "e2b-traffic-access-token", given); a.status != http.StatusForbidden || !strings.Contains(string(a.body), "trafficAccessToken") {
				t.Errorf("token %q: %d %s", given, a.status, a.body)
			}
		}
		for _, port := range []int{8000, 8443} {
			a := b.get(t, port, "/", "E2B-Traffic-Access-Token", b.Traffic, "X-API-Key", s.Key, "X-Access-Token", b.Token)
			var saw struct{ Headers map[string]string }
			if err := json.Unmarshal(a.body, &saw); a.status != http.StatusOK || err != nil {
				t.Fatalf("port %d: %d %s", port, a.status, a.body)
			}
			if want := "app.test:" + strconv.Itoa(port); saw.Headers["host"] != want {
				t.Errorf("port %d saw Host %q, want %q", port, saw.Headers["host"], want)
			}
			for _, name := range []string{"e2b-traffic-access-token", "x-api-key", "x-access-token"} {
				if saw.Headers[name] != "" {
					t.Errorf("port %d saw %s", port, name)
				}
			}
		}
		if a := b.get(t, 49983, "/health"); a.status != http.StatusNoContent {
			t.Errorf("health of a sandbox closed to traffic: %d", a.status)
		}
	}
	check()
	s.Kill9()
	s.Restart()
	check()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/sandboxes/"+b.ID, nil)
	req.Header.Set("X-API-Key", s.Key)
	if a := send(t, req); !strings.Contains(string(a.body), `"maskRequestHost":"app.test:${PORT}"`) || !strings.Contains(string(a.body), `"allowPublicTraffic":false`) {
		t.Errorf("the detail says %s", a.body)
	}
}

// A create of version 1 that does not ask for a secured sandbox gets an open one
// where the server allows it, and one like all others elsewhere.
func TestAllowInsecureV1(t *testing.T) {
	for _, allow := range []bool{false, true} {
		s := harness.Start(t, harness.Options{Env: []string{"SANDLOT_ALLOW_INSECURE_V1=" + strconv.FormatBool(allow)}})
		b := create(t, s, "/sandboxes", `{"templateID":"base","timeout":120}`)
		want := map[bool]int{false: http.StatusUnauthorized, true: http.StatusOK}[allow]
		for range 2 {
			if a := b.get(t, 49983, "/files?path=/etc/hostname"); a.status != want || (b.Token == "") != allow {
				t.Errorf("allowed %v: token %q, reading a file without one: %d %s", allow, b.Token, a.status, a.body)
			}
			s.Kill9()
			s.Restart()
		}
		secured := create(t, s, "/v2/sandboxes", `{"templateID":"base"}`)
		if a := secured.get(t, 49983, "/files?path=/etc/hostname"); a.status != http.StatusUnauthorized || secured.Token == "" {
			t.Errorf("allowed %v: version 2 made a sandbox without a token: %d", allow, a.status)
		}
	}
}

// A program inside may listen where it likes, and reaches nobody's secrets by it.
func TestImpostor(t *testing.T) {
	s := harness.Start(t, harness.Options{})
	b := create(t, s, "/v2/sandboxes", `{"templateID":"base"}`)
	b.serve(t, 49983, "")
	for _, host := range []string{"", "49983-" + b.ID + ".localhost"} {
		req := b.to(t, http.MethodGet, 49983, "/envs", nil)
		if host != "" {
			req.Header.Del("E2b-Sandbox-Id")
			req.Header.Del("E2b-Sandbox-Port")
			req.Host = host
		}
		if a := send(t, req); a.status != http.StatusUnauthorized || bytes.Contains(a.body, []byte("headers")) {
			t.Errorf("host %q: %d %s", host, a.status, a.body)
		}
	}
	for _, path := range []string{"/sandlot/init", "//sandlot/init", "/process.Process/../sandlot/init", "/init"} {
		req := b.to(t, http.MethodPost, 49983, "", strings.NewReader(`{}`), "X-Access-Token", b.Token)
		req.URL.Opaque = path
		if a := send(t, req); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// Bodies pass without being kept, on either side.
func TestLargeBodies(t *testing.T) {
	size := int64(128 << 20)
	if text := os.Getenv("SANDLOT_TEST_BODY"); text != "" { // bytes
		size, _ = strconv.ParseInt(text, 10, 64)
	}
	s := harness.Start(t, harness.Options{})
	b := create(t, s, "/v2/sandboxes", `{"templateID":"base"}`)
	b.serve(t, 8000, "")
	host, agent := peak(t, s.PID()), b.number(t, "awk '/VmHWM/{print $2}' /proc/1/status")
	began := time.Now()
	req := b.to(t, http.MethodPut, 8000, "/", io.LimitReader(zeros{}, size))
	req.ContentLength = size
	if a := send(t, req); string(a.body) != strconv.FormatInt(size, 10) {
		t.Errorf("upload: %d %s", a.status, a.body)
	}
	up := time.Since(began)
	res, err := http.DefaultClient.Do(b.to(t, http.MethodGet, 8000, fmt.Sprintf("/zeros/%d", size), nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
		t.Errorf("download: %d bytes, %v", n, err)
	}
	host, agent = peak(t, s.PID())-host, b.number(t, "awk '/VmHWM/{print $2}' /proc/1/status")-agent
	t.Logf("%d MiB up in %v, down in %v; peak of the server +%d KiB, of the agent +%d KiB", size>>20, up, time.Since(began)-up, host, agent)
	if host > 32<<10 || agent > 16<<10 {
		t.Errorf("memory grew: server +%d KiB, agent +%d KiB", host, agent)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An upgraded connection passes both ways at once, by header and by host name,
// and ends when its sandbox does.
func TestUpgrade(t *testing.T) {
	s := harness.Start(t, harness.Options{})
	b := create(t, s, "/v2/sandboxes", `{"templateID":"base"}`)
	b.serve(t, 8000, "")
	message := bytes.Repeat([]byte("sandlot "), 1<<17) // 1 MiB
	var conns []net.Conn
	for _, headers := range []string{
		"Host: localhost\r\nE2b-Sandbox-Id: " + b.ID + "\r\nE2b-Sandbox-Port: 8000\r\n",
		"Host: 8000-" + b.ID + ".localhost\r\n",
	} {
		conn, rest := upgrade(t, s, headers)
		failed := make(chan error, 1)
		go func() { _, err := conn.Write(message); failed <- err }()
		got := make([]byte, len(message))
		if _, err := io.ReadFull(rest, got); err != nil || !bytes.Equal(got, message) || <-failed != nil {
			t.Fatalf("a message of 1 MiB: %v", err)
		}
		conns = append(conns, conn)
	}
	s.CLI("sandbox", "kill", b.ID)
	for _, conn := range conns {
		if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("the connection outlived its sandbox: %v", err)
		}
	}
}
