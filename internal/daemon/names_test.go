package daemon

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

func TestBaseURL(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:7280":  "http://127.0.0.1:7280",
		"0.0.0.0:80":      "http://127.0.0.1:80",
		"[::]:7280":       "http://127.0.0.1:7280",
		"[::1]:7280":      "http://[::1]:7280",
		"192.0.2.1:49152": "http://192.0.2.1:49152",
	} {
		a, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := baseURL(a); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

// A server on all addresses is reached where it says it is.
func TestBaseURLIsReached(t *testing.T) {
	for _, addr := range []string{":0", "0.0.0.0:0", "127.0.0.1:0"} {
		ln, err := listen(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", strings.TrimPrefix(baseURL(ln.Addr()), "http://"))
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		_ = conn.Close()
		_ = ln.Close()
	}
}

func TestDistrustNeedsRoot(t *testing.T) {
	if err := mayDistrust(0); err != nil {
		t.Errorf("root: %v", err)
	}
	err, ok := errors.AsType[*errs.Error](mayDistrust(1000))
	if !ok || err.Kind != errs.Forbidden || !strings.Contains(err.Hint, "trust --uninstall") {
		t.Errorf("a user: %v", err)
	}
}
