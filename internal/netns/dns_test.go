package netns

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

var discard = slog.New(slog.DiscardHandler)

// upstream is a name server on the host's loopback. It answers every question
// with an address, and those for "large." with more than a UDP packet holds.
func upstream(t testing.TB) string {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	l, err := net.Listen("tcp4", pc.LocalAddr().String())
	must(t, err)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		name := q.Question[0].Name
		switch {
		case strings.HasPrefix(name, "silent."):
			return
		case strings.HasPrefix(name, "missing."):
			m.Rcode = dns.RcodeNameError
		case strings.HasPrefix(name, "large."):
			for range 40 {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{strings.Repeat("x", 200)}})
			}
		default:
			m.Answer = append(m.Answer, &dns.A{Hdr: header(name, dns.TypeA), A: net.IPv4(198, 51, 100, 2)})
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(udpSize(q))
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.ActivateAndServe() })
		t.Cleanup(func() { _ = s.Shutdown(); wg.Wait() })
	}
	return pc.LocalAddr().String()
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 60}
}

// silent is a name server that never answers.
func silent(t testing.TB) string {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { pc.Close() })
	return pc.LocalAddr().String()
}

// lookup asks for a name from inside a sandbox.
func lookup(pid int, network, server, name string) (answer *dns.Msg, err error) {
	err = within(pid, func() error {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA)
		c := dns.Client{Net: network, Timeout: 8 * time.Second}
		answer, _, err = c.Exchange(q, server)
		return err
	})
	return answer, err
}

var nameServer = netip.AddrPortFrom(GatewayAddr, 53).String()

func TestNames(t *testing.T) {
	testreq.Root(t)
	n := openNetwork(t, []string{upstream(t)})
	a := attach(t, n, 1)
	for _, network := range []string{"udp", "tcp"} {
		m, err := lookup(a.pid, network, nameServer, "example.test.")
		if err != nil {
			t.Errorf("%s: %v", network, err)
			continue
		}
		if len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "198.51.100.2") {
			t.Errorf("%s: answer %v", network, m)
		}
		if m, err := lookup(a.pid, network, nameServer, "missing.test."); err != nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: a missing name: %v, %v", network, m, err)
		}
	}
	if m, err := lookup(a.pid, "udp", nameServer, "large.test."); err != nil || !m.Truncated || len(m.Answer) > 10 {
		t.Errorf("a large answer over UDP: %v", err)
	}
	if m, err := lookup(a.pid, "tcp", nameServer, "large.test."); err != nil || m.Truncated || len(m.Answer) != 40 {
		t.Errorf("a large answer over TCP: %v", err)
	}
}

func TestDeadNameServers(t *testing.T) {
	testreq.Root(t)
	live := upstream(t)
	for name, c := range map[string]struct {
		upstreams []string
		rcode     int
		within    time.Duration
	}{
		"refusing":           {[]string{"127.0.0.1:1"}, dns.RcodeServerFailure, time.Second},
		"silent":             {[]string{silent(t)}, dns.RcodeServerFailure, 5 * time.Second},
		"refusing, then one": {[]string{"127.0.0.1:1", live}, dns.RcodeSuccess, time.Second},
		"silent, then one":   {[]string{silent(t), live}, dns.RcodeSuccess, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			n := openNetwork(t, c.upstreams)
			a := attach(t, n, 1)
			start := time.Now()
			m, err := lookup(a.pid, "udp", nameServer, "example.test.")
			must(t, err)
			if took := time.Since(start); m.Rcode != c.rcode || took > c.within {
				t.Errorf("%s after %s", dns.RcodeToString[m.Rcode], took)
			}
		})
	}
}

// Only sandboxes are served, and only by the gateway's address.
func TestStrangersGetNoNames(t *testing.T) {
	testreq.Root(t)
	n := openNetwork(t, []string{upstream(t)})
	far := internet(t)
	a := attach(t, n, 1)
	port := netip.AddrPortFrom(GatewayAddr, n.dns.port).String()
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: patience}
		q := new(dns.Msg).SetQuestion("example.test.", dns.TypeA)
		if _, _, err := c.Exchange(q, port); err == nil {
			t.Errorf("the host itself was answered over %s", network)
		}
		err := within(far, func() error { _, _, err := c.Exchange(q, port); return err })
		if err == nil {
			t.Errorf("the internet was answered over %s", network)
		}
		err = within(a.pid, func() error { _, _, err := c.Exchange(q, hostAddress.String()+":53"); return err })
		if err == nil {
			t.Errorf("another address of the host's answered over %s", network)
		}
	}
	if _, err := lookup(a.pid, "udp", nameServer, "example.test."); err != nil {
		t.Error(err)
	}
}

// A sandbox that asks without end must not keep others from being answered.
func TestFloodOfQuestions(t *testing.T) {
	testreq.Root(t)
	n := openNetwork(t, []string{upstream(t)})
	a, b := attach(t, n, 1), attach(t, n, 2)
	q, err := new(dns.Msg).SetQuestion("silent.test.", dns.TypeA).Pack()
	must(t, err)
	var c net.Conn
	must(t, within(a.pid, func() (err error) { c, err = net.Dial("udp4", nameServer); return err }))
	defer c.Close()
	refused := false
	must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	for range 2 * maxPerSandbox {
		_, err := c.Write(q)
		must(t, err)
	}
	buf := make([]byte, 512)
	for !refused {
		k, err := c.Read(buf)
		must(t, err)
		var m dns.Msg
		must(t, m.Unpack(buf[:k]))
		refused = m.Rcode == dns.RcodeRefused
	}
	start := time.Now()
	m, err := lookup(b.pid, "udp", nameServer, "example.test.")
	must(t, err)
	if m.Rcode != dns.RcodeSuccess || time.Since(start) > time.Second {
		t.Errorf("another sandbox got %s after %s", dns.RcodeToString[m.Rcode], time.Since(start))
	}
}
