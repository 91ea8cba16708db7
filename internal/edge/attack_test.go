package edge

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/control"
)

// witness notes what reaches the inside of a sandbox.
type witness struct {
	mu   sync.Mutex
	seen []string
}

func (n *witness) note(who string) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if r.RequestURI != "/health?end" {
			n.seen = append(n.seen, who+" "+r.Method+" "+r.RequestURI)
		}
	}
}

func (n *witness) drain() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := n.seen
	n.seen = nil
	return seen
}

// lastRequest ends a connection after all requests before it have been served. A
// client that ended it itself would be taken for one that has gone.
const lastRequest = "GET /health?end HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\nConnection: close\r\n\r\n"

// raw sends bytes and returns the status of every answer.
func raw(t *testing.T, addr, request string) (statuses []string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, request+lastRequest)
	r := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.Close {
			return append(statuses, res.Status[:3])
		}
		statuses = append(statuses, res.Status[:3])
	}
}

// The agent has routes that are the server's own. From outside nothing may
// reach them, with or without the sandbox's token, however it is spelt; and
// nothing but the health route without a token.
func TestRoutesOfTheServer(t *testing.T) {
	var n witness
	s := start(t, control.Sandbox{AccessToken: token}, n.note("agent"), n.note("port"))
	const (
		id   = "E2b-Sandbox-Id: " + string(liveID) + "\r\n"
		auth = "X-Access-Token: " + token + "\r\n"
		host = "49983-" + string(liveID) + ".localhost"
	)
	for _, line := range []string{
		"POST /sandlot/init HTTP/1.1", "POST /sandlot/init HTTP/1.0", "POST //sandlot/init HTTP/1.1", "POST /./sandlot/init HTTP/1.1",
		"POST /sandlot//init HTTP/1.1", "POST /sandlot%2finit HTTP/1.1", "POST /%73andlot/init HTTP/1.1", "POST /%2fsandlot/init HTTP/1.1",
		"POST /SANDLOT/INIT HTTP/1.1", "POST /init HTTP/1.1", "POST /Init HTTP/1.1", "POST /sandlot/init/ HTTP/1.1", "POST /sandlot/init?x=/health HTTP/1.1",
		"POST /health/../sandlot/init HTTP/1.1", "POST /files/../sandlot/init HTTP/1.1", "POST /files/%2e%2e/sandlot/init HTTP/1.1",
		"POST /process.Process/../sandlot/init HTTP/1.1", "POST /process.Process/%2e%2e/sandlot/init HTTP/1.1",
		"POST /process.Process/..%2fsandlot%2finit HTTP/1.1", "POST /process.Process%2f..%2fsandlot%2finit HTTP/1.1",
		"POST /filesystem.Filesystem//sandlot/init HTTP/1.1", "POST /filesystem.Filesystem/ HTTP/1.1", "POST /process.Process/Start/ HTTP/1.1",
		"POST /process.Process/Start;x HTTP/1.1", "POST /process.Process/Start%00 HTTP/1.1", "POST /health%20 HTTP/1.1", "POST /health/ HTTP/1.1",
		"POST /sandlot/init\\..\\health HTTP/1.1", "POST http://" + host + "/sandlot/init HTTP/1.1", "POST http://" + host + "//sandlot/init HTTP/1.1",
		"POST http:///sandlot/init HTTP/1.1", "POST http:/sandlot/init HTTP/1.1", "POST http:sandlot/init HTTP/1.1", "POST http://evil/sandlot/init HTTP/1.1",
		"POST ?/health HTTP/1.1", "OPTIONS * HTTP/1.1", "* /sandlot/init HTTP/1.1", "POST /sandlot/init HTTP/2.0", "PRI * HTTP/2.0",
		"CONNECT localhost:22 HTTP/1.1", "CONNECT /health HTTP/1.1", "CONNECT " + host + ":80 HTTP/1.1", "connect localhost:22 HTTP/1.1",
		"POST /freeze HTTP/1.1", "POST /unfreeze HTTP/1.1", "POST /collapse HTTP/1.1", "GET /debug/pprof/ HTTP/1.1",
	} {
		for _, headers := range []string{
			"Host: " + host + "\r\n" + auth,
			"Host: localhost\r\n" + id + auth,
			"Host: localhost\r\n" + id + "E2b-Sandbox-Port: 49983\r\n" + auth,
			"Host: localhost\r\n" + id + "E2b-Sandbox-Port: 049983\r\n" + auth,
			"Host: /health\r\n" + id + auth,
		} {
			statuses := raw(t, s.Listener.Addr().String(), line+"\r\n"+headers+"Content-Length: 0\r\n\r\n")
			if seen := n.drain(); len(seen) > 0 {
				t.Errorf("%q with %q reached %v", line, headers, seen)
			}
			// Requests to all of a server ("*") are net/http's to answer.
			if len(statuses) == 0 || statuses[0] < "4" && !strings.HasPrefix(line, "OPTIONS *") {
				t.Errorf("%q with %q was answered with %v", line, headers, statuses)
			}
		}
	}
}

// Requests that two readers could understand differently, and headers that ask
// for others to be dropped, must not get by the check of the token.
func TestTokensCannotBeDodged(t *testing.T) {
	const (
		id    = "Host: localhost\r\nE2b-Sandbox-Id: " + string(liveID) + "\r\n"
		inner = "POST /sandlot/init HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
	)
	var n witness
	s := start(t, control.Sandbox{AccessToken: token, TrafficToken: "pass"}, n.note("agent"), n.note("port"))
	for name, c := range map[string]struct {
		request string
		reaches []string // what may be seen inside
	}{
		"no token":                   {"GET /envs HTTP/1.1\r\n" + id + "\r\n", nil},
		"empty token":                {"GET /envs HTTP/1.1\r\n" + id + "X-Access-Token:\r\n\r\n", nil},
		"token in the query":         {"GET /envs?X-Access-Token=" + token + " HTTP/1.1\r\n" + id + "\r\n", nil},
		"token as a hop's header":    {"GET /envs HTTP/1.1\r\n" + id + "Connection: X-Access-Token, close\r\nX-Access-Token: guess\r\n\r\n", nil},
		"id as a hop's header":       {"GET /envs HTTP/1.1\r\n" + id + "Connection: E2b-Sandbox-Id, E2b-Sandbox-Port\r\n\r\n", nil},
		"wrong token, then right":    {"GET /envs HTTP/1.1\r\n" + id + "X-Access-Token: guess\r\nX-Access-Token: " + token + "\r\n\r\n", nil},
		"two ids":                    {"GET /health HTTP/1.1\r\n" + id + "E2b-Sandbox-Id: " + string(otherID) + "\r\n\r\n", nil},
		"two ports":                  {"GET /x HTTP/1.1\r\n" + id + "E2b-Sandbox-Port: 8080\r\nE2b-Sandbox-Port: 49983\r\nE2b-Traffic-Access-Token: pass\r\n\r\n", nil},
		"two hosts":                  {"GET /health HTTP/1.1\r\nHost: a\r\n" + id + "\r\n", nil},
		"port 49983 as a user's":     {"GET /envs HTTP/1.1\r\nHost: 8080-" + string(liveID) + ".localhost\r\n" + id[len("Host: localhost\r\n"):] + "E2b-Sandbox-Port: 49983\r\n\r\n", nil},
		"traffic token at the agent": {"GET /envs HTTP/1.1\r\n" + id + "E2b-Traffic-Access-Token: pass\r\n\r\n", nil},
		"access token at a port":     {"GET /x HTTP/1.1\r\n" + id + "E2b-Sandbox-Port: 8080\r\nX-Access-Token: " + token + "\r\n\r\n", nil},
		"health by another method":   {"POST /health HTTP/1.1\r\n" + id + "Content-Length: 0\r\n\r\n", nil},
		"health overridden":          {"GET /health HTTP/1.1\r\n" + id + "X-HTTP-Method-Override: POST\r\nX-Original-URL: /sandlot/init\r\nX-Rewrite-URL: /sandlot/init\r\nConnection: close\r\n\r\n", []string{"agent GET /health"}},
		"both lengths":               {"GET /health HTTP/1.1\r\n" + id + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, []string{"agent GET /health"}},
		"two lengths":                {"GET /health HTTP/1.1\r\n" + id + "Content-Length: 0\r\nContent-Length: 70\r\n\r\n" + inner, nil},
		"a list of lengths":          {"GET /health HTTP/1.1\r\n" + id + "Content-Length: 0, 70\r\n\r\n" + inner, nil},
		"an odd encoding":            {"GET /health HTTP/1.1\r\n" + id + "Transfer-Encoding: xchunked\r\n\r\n" + inner, nil},
		"an encoding after a tab":    {"GET /health HTTP/1.1\r\n" + id + "Transfer-Encoding:\tchunked\r\nContent-Length: 70\r\n\r\n0\r\n\r\n" + inner, []string{"agent GET /health"}},
		"a space before the colon":   {"GET /health HTTP/1.1\r\n" + id + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + inner, nil},
		"encoding and HTTP/1.0":      {"GET /health HTTP/1.0\r\n" + id + "Transfer-Encoding: chunked\r\nContent-Length: 70\r\n\r\n0\r\n\r\n" + inner, []string{"agent GET /health"}},
		"a folded header":            {"GET /health HTTP/1.1\r\n" + id + "X-A: b\r\n E2b-Sandbox-Port: 1\r\nConnection: close\r\n\r\n", []string{"agent GET /health"}},
		"a bare carriage return":     {"GET /health HTTP/1.1\r\n" + id + "X-A: b\rX-Access-Token: " + token + "\r\n\r\n", nil},
		"pipelined":                  {"GET /health HTTP/1.1\r\n" + id + "\r\n" + inner, []string{"agent GET /health"}},
		"an upgrade of health":       {"GET /health HTTP/1.1\r\n" + id + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", []string{"agent GET /health"}},
		"an encoded route":           {"GET /%68ealth HTTP/1.1\r\n" + id + "Connection: close\r\n\r\n", []string{"agent GET /health"}},
	} {
		t.Run(name, func(t *testing.T) {
			raw(t, s.Listener.Addr().String(), c.request)
			allowed := map[string]bool{}
			for _, r := range c.reaches {
				allowed[r] = true
			}
			for _, got := range n.drain() {
				if !allowed[got] {
					t.Errorf("%s reached the sandbox", got)
				}
			}
		})
	}
}

// A signature covers the user in the query. Whoever has it must not choose
// another by a header.
func TestSignatureFixesTheUser(t *testing.T) {
	s := start(t, control.Sandbox{AccessToken: token}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "as "+r.Header.Get("Authorization")+".")
	}, echoPath("port"))
	for query, want := range map[string]string{"?path=a&signature=good": "as .", "?path=a": "as Basic cm9vdDo=."} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/files"+query, nil)
		req.Header.Set(idHeader, string(liveID))
		req.Header.Set(tokenHeader, token)
		req.Header.Set("Authorization", "Basic cm9vdDo=")
		check(t, req, 200, want)
	}
}

// Headers that mean something to programs pass; what is the platform's does not.
func TestHeadersOfPrograms(t *testing.T) {
	s := start(t, control.Sandbox{AccessToken: token, TrafficToken: "pass"}, echoPath("agent"), func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Join([]string{
			r.Header.Get(keyHeader), r.Header.Get(tokenHeader), r.Header.Get(trafficHeader), r.Header.Get("Authorization"),
		}, "|"))
	})
	for _, c := range []struct{ key, token, want string }{
		{"e2b_0123", token, "|||Bearer x"},
		{"my-own-key", "my-own-token", "my-own-key|my-own-token||Bearer x"},
	} {
		req := portRequest(t, http.MethodGet, s.URL, nil)
		req.Header.Set(keyHeader, c.key)
		req.Header.Set(tokenHeader, c.token)
		req.Header.Set(trafficHeader, "pass")
		req.Header.Set("Authorization", "Bearer x")
		check(t, req, 200, c.want)
	}
}
