package agentclient

import (
	"net"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// FuzzConnectReply lets an agent answer CONNECT with anything: either there is a
// tunnel, and what follows the header is still in it, or an error that can be
// printed.
func FuzzConnectReply(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\n\r\nstream")
	f.Add("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 24\r\n\r\n{\"message\":\"\\u001b[2J x\"}")
	f.Add("HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n")
	f.Add("HTTP/1.1 -200 OK\r\n\r\n")
	f.Add("HTTP/1.1 200\x1b[2J\r\n\r\n")
	f.Add(strings.Repeat("A", 5_000))
	f.Fuzz(func(t *testing.T, reply string) {
		here, there := net.Pipe()
		defer here.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer there.Close()
			_, _ = there.Read(make([]byte, 256))
			_, _ = there.Write([]byte(reply))
		}()
		_ = here.SetDeadline(time.Now().Add(10 * time.Second))
		err := connect(here, 80)
		if err == nil {
			header, rest, _ := strings.Cut(reply, "\r\n\r\n")
			if status, err := statusOf(header); err != nil || status != 200 {
				t.Errorf("a tunnel by %q", header)
			}
			got := make([]byte, len(rest)+1)
			n := 0
			for n < len(rest) {
				m, err := here.Read(got[n:])
				if n += m; err != nil {
					break
				}
			}
			if string(got[:n]) != rest {
				t.Errorf("the tunnel begins with %q, want %q", got[:n], rest)
			}
		} else {
			printableError(t, err)
		}
		_ = here.Close()
		<-done
	})
}

// FuzzErrorBody reads anything as the body of an error.
func FuzzErrorBody(f *testing.F) {
	f.Add(`{"code":404,"message":"no such file"}`, 404)
	f.Add(`{"message":"\u001b]0;title\u0007\u009b\ud800"}`, 502)
	f.Add("{\"message\":\"\xff\xfe\"}", 0)
	f.Add(`{"message":{}}`, 200)
	f.Fuzz(func(t *testing.T, body string, status int) {
		printableError(t, refusal("POST /x", status, strings.NewReader(body)))
	})
}

func printableError(t *testing.T, err error) {
	t.Helper()
	for _, text := range []string{errs.PublicMessage(err), err.Error()} {
		if len(text) > 4096 {
			t.Errorf("%d bytes of text", len(text))
		}
		if i := strings.IndexFunc(text, unicode.IsControl); i >= 0 {
			t.Errorf("a control character in %q", text)
		}
	}
}
