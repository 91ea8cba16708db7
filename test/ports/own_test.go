package ports_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/test/harness"
)

// A program that listens on nothing but the sandbox's own address is reached, in
// a sandbox with a network. It asks the kernel which address that is.
func TestOwnAddress(t *testing.T) {
	b := create(t, harness.Start(t, harness.Options{}), "/v2/sandboxes", `{"templateID":"base"}`)
	const server = `import socket, http.server
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("192.0.2.1", 9))
open("/tmp/own", "w").write(s.getsockname()[0])
http.server.HTTPServer((s.getsockname()[0], 3000), http.server.SimpleHTTPRequestHandler).serve_forever()
`
	b.write(t, "/tmp/own.py", []byte(server))
	if _, err := b.Commands.Start(t.Context(), "cd /tmp && exec python3 own.py"); err != nil {
		t.Fatal(err)
	}
	a := b.get(t, 3000, "/own")
	for deadline := time.Now().Add(20 * time.Second); a.status != 200 && time.Now().Before(deadline); a = b.get(t, 3000, "/own") {
		time.Sleep(20 * time.Millisecond)
	}
	if own := string(a.body); a.status != 200 || strings.HasPrefix(own, "127.") || strings.Count(own, ".") != 3 {
		t.Errorf("from the sandbox's own address: %d %s", a.status, own)
	}
}
