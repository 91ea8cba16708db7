package edge

import (
	"net/http"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/control"
)

// TestSharedOrigin asks for signed files as a browser does: what a sandbox wrote
// must not act in the server's own name.
func TestSharedOrigin(t *testing.T) {
	s := start(t, control.Sandbox{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Strict-Transport-Security", "max-age=1")
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<script>"))
	}, echoPath("port"))
	for name, c := range map[string]struct {
		host  string
		apart bool
	}{
		"no sandbox named": {"", true},
		"by name":          {"49983-" + string(liveID) + ".example.org", false},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/files?path=a&signature=good", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if c.host != "" {
			req.Host = c.host
		}
		got, body := do(t, http.DefaultClient, req)
		h := got.Header
		if got.StatusCode != 200 || body != "<script>" || h.Get("Content-Type") != "text/html" {
			t.Errorf("%s: %d %q %v", name, got.StatusCode, body, h)
		}
		if (h.Get("Set-Cookie") == "") != c.apart || (h.Get("Strict-Transport-Security") == "") != c.apart ||
			(h.Get("Content-Security-Policy") != "") != c.apart {
			t.Errorf("%s: %v", name, h)
		}
	}
}
