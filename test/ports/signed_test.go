package ports_test

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/test/harness"
)

// signed returns a file URL's query as an SDK makes it.
func signed(path, op, user, token string, expires time.Time) url.Values {
	q := url.Values{"path": {path}}
	text := path + ":" + op + ":" + user + ":" + token
	if user != "" {
		q.Set("username", user)
	}
	if !expires.IsZero() {
		q.Set("signature_expiration", strconv.FormatInt(expires.Unix(), 10))
		text += ":" + q.Get("signature_expiration")
	}
	sum := sha256.Sum256([]byte(text))
	q.Set("signature", "v1_"+base64.RawStdEncoding.EncodeToString(sum[:]))
	return q
}

// A signed URL names no sandbox. It leads to the one whose token signed it, does
// what was signed as whom it was signed for, and ends with its time or its
// sandbox.
func TestSignedURLs(t *testing.T) {
	s := harness.Start(t, harness.Options{})
	a, b := create(t, s, "/v2/sandboxes", `{"templateID":"base"}`), create(t, s, "/v2/sandboxes", `{"templateID":"base"}`)
	for _, x := range []*box{a, b} {
		x.write(t, "/home/user/f", []byte(x.ID))
		x.run(t, "printf secret >/root/f")
	}
	ask := func(method string, q url.Values, headers ...string) answer {
		t.Helper()
		body := strings.NewReader("")
		if method == http.MethodPost {
			body = strings.NewReader("new")
		}
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/files?"+q.Encode(), body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/octet-stream")
		for i := 0; i+1 < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		return send(t, req)
	}
	soon, past := time.Now().Add(time.Minute), time.Now().Add(-2*time.Second)
	for _, x := range []*box{a, b} {
		for _, expires := range []time.Time{{}, soon} {
			if got := ask(http.MethodGet, signed("f", "read", "user", x.Token, expires)); got.status != http.StatusOK || string(got.body) != x.ID {
				t.Errorf("GET: %d %s, want %s", got.status, got.body, x.ID)
			}
		}
		if got := ask(http.MethodHead, signed("f", "read", "", x.Token, soon)); got.status != http.StatusOK || got.header.Get("Content-Length") != strconv.Itoa(len(x.ID)) {
			t.Errorf("HEAD: %d %v", got.status, got.header)
		}
	}
	other := signed("f", "read", "", a.Token, soon)
	other.Set("path", "root")
	later := signed("f", "read", "", a.Token, soon)
	later.Set("signature_expiration", strconv.FormatInt(soon.Unix()+1, 10))
	for name, c := range map[string]struct {
		method  string
		query   url.Values
		headers []string
	}{
		"another path":               {http.MethodGet, other, nil},
		"another time":               {http.MethodGet, later, nil},
		"expired":                    {http.MethodGet, signed("f", "read", "", a.Token, past), nil},
		"writing with a read's":      {http.MethodPost, signed("f", "read", "", a.Token, soon), nil},
		"reading with a write's":     {http.MethodGet, signed("f", "write", "", a.Token, soon), nil},
		"the other sandbox's header": {http.MethodGet, signed("f", "read", "", a.Token, soon), []string{"E2b-Sandbox-Id", b.ID}},
	} {
		if got := ask(c.method, c.query, c.headers...); got.status < 400 || got.status == http.StatusNotFound {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if got := ask(http.MethodGet, signed("f", "read", "", a.Token, soon), "Authorization", "Basic cm9vdDo="); string(got.body) != a.ID {
		t.Errorf("as root by a header: %d %s", got.status, got.body)
	}
	if got := ask(http.MethodPost, signed("/home/user/g", "write", "", b.Token, soon)); got.status != http.StatusOK {
		t.Errorf("POST: %d %s", got.status, got.body)
	}
	if got := b.run(t, "cat /home/user/g"); got != "new" {
		t.Errorf("wrote %q", got)
	}
	s.CLI("sandbox", "kill", a.ID)
	if got := ask(http.MethodGet, signed("f", "read", "", a.Token, soon)); got.status != http.StatusUnauthorized {
		t.Errorf("a killed sandbox's: %d %s", got.status, got.body)
	}
	if got := ask(http.MethodGet, signed("f", "read", "", b.Token, soon)); got.status != http.StatusOK {
		t.Errorf("the other's: %d %s", got.status, got.body)
	}
}
