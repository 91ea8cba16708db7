package netns

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// queue is a listener that accepts what was put into it.
type queue chan net.Conn

func (q queue) Accept() (net.Conn, error) {
	c, ok := <-q
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (queue) Close() error   { return nil }
func (queue) Addr() net.Addr { return &net.TCPAddr{} }

// caller is the server's end of a connection from an address.
type caller struct {
	net.Conn
	from string
}

func (c caller) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.from), 4000))
}

// call reports whether a connection from an address is kept; the listener
// closes it otherwise.
func call(q queue, accepted chan net.Conn, from string) net.Conn {
	server, client := net.Pipe()
	q <- caller{server, from}
	synctest.Wait()
	select {
	case c := <-accepted:
		return c
	default:
		if _, err := client.Read(make([]byte, 1)); err == nil {
			panic("a refused connection brought data")
		}
		return nil
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, accepted := make(queue), make(chan net.Conn, 1)
		go func() {
			for l := limited(q); ; {
				c, err := l.Accept()
				if err != nil {
					return
				}
				accepted <- c
			}
		}()
		defer close(q)
		var open []net.Conn
		for range maxConnsPerSandbox {
			open = append(open, call(q, accepted, "10.200.0.1"))
		}
		if call(q, accepted, "10.200.0.1") != nil {
			t.Error("one sandbox has more connections than it may")
		}
		if call(q, accepted, "203.0.113.9") != nil {
			t.Error("a stranger is connected")
		}
		for range 2 { // closing twice gives one place back
			_ = open[0].Close()
		}
		if call(q, accepted, "10.200.0.1") == nil || call(q, accepted, "10.200.0.1") != nil {
			t.Error("closing one connection must make room for one")
		}
		for i := range maxConns - maxConnsPerSandbox {
			if call(q, accepted, netip.AddrFrom4([4]byte{10, 200, 1, byte(i)}).String()) == nil {
				t.Fatalf("connection %d of all was refused", i)
			}
		}
		if call(q, accepted, "10.200.2.1") != nil {
			t.Error("there are more connections than may be")
		}
		start := time.Now()
		if _, err := open[1].Write([]byte("an answer nobody reads")); err == nil || time.Since(start) > 2*writeTimeout {
			t.Errorf("writing to who does not read: %v after %s", err, time.Since(start))
		}
	})
}
