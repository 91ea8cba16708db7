package daemon

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Beyond the bound a client is cut off, and finds room when another has left.
func TestCrowd(t *testing.T) {
	c := crowd{most: 2}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ConnState = c.watch // httptest wraps it
	s.Start()
	defer s.Close()
	open := func() (net.Conn, bool) {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		n, _ := conn.Read(make([]byte, 1))
		return conn, n == 1
	}
	first, ok := open()
	if !ok {
		t.Fatal("the first was cut")
	}
	second, ok := open()
	if !ok {
		t.Fatal("the second was cut")
	}
	defer second.Close()
	third, ok := open()
	_ = third.Close()
	if ok {
		t.Error("a third was served")
	}
	_ = first.Close()
	for end := time.Now().Add(20 * time.Second); ; {
		conn, ok := open()
		_ = conn.Close()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatal("no room after the first has left")
		}
	}
}

func TestDescriptorsOver(t *testing.T) {
	if whole, half := descriptorsOver(1), descriptorsOver(2); whole < 16 || half != whole/2 {
		t.Errorf("%d in all, half of it %d", whole, half)
	}
}
