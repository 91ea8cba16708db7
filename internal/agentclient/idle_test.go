package agentclient

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
)

func TestLimitIdle(t *testing.T) {
	f := NewForwarder(nil)
	defer f.Close()
	f.LimitIdle(2)
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for n := range 3 {
		conn, err := net.Dial("unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		f.idle.put(strconv.Itoa(n), &link{conn: conn})
	}
	if f.idle.count != 2 || f.idle.take("2") != nil {
		t.Errorf("%d are kept, the third among them?", f.idle.count)
	}
}
