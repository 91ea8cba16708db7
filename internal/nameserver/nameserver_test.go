package nameserver_test

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/nameserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) *nameserver.Server {
	t.Helper()
	addrs := func(all ...string) (out []netip.Addr) {
		for _, a := range all {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	s, err := nameserver.Open(t.Context(), nameserver.Options{
		Addr: "127.0.0.1:0", Domains: []string{"box.example"}, Answer: addrs("192.0.2.7", "2001:db8::7", "192.0.2.8"),
		Loopback: addrs("127.0.0.1"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ask(t testing.TB, s *nameserver.Server, network string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 10 * time.Second}
	r, _, err := c.Exchange(q, s.Addr())
	if err != nil {
		t.Fatalf("%s: %v", network, err)
	}
	return r
}

func question(name string, kind uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, kind) }

func TestAnswers(t *testing.T) {
	s := open(t)
	for _, c := range []struct {
		name  string
		kind  uint16
		rcode int
		want  string
	}{
		{"localhost.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1"},
		{"8000-x.localhost.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1"},
		{"a.b.c.LocalHost.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1"},
		{"8000-x.localhost.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"8000-x.localhost.", dns.TypeMX, dns.RcodeSuccess, ""},
		{"box.example.", dns.TypeA, dns.RcodeSuccess, "192.0.2.7 192.0.2.8"},
		{"api.box.example.", dns.TypeA, dns.RcodeSuccess, "192.0.2.7 192.0.2.8"},
		{"8000-x.Box.Example.", dns.TypeAAAA, dns.RcodeSuccess, "2001:db8::7"},
		{"example.", dns.TypeA, dns.RcodeRefused, ""},
		{"otherbox.example.", dns.TypeA, dns.RcodeRefused, ""},
		{"box.example.org.", dns.TypeA, dns.RcodeRefused, ""},
		{"notlocalhost.", dns.TypeA, dns.RcodeRefused, ""},
		{".", dns.TypeNS, dns.RcodeRefused, ""},
		{"1.0.0.127.in-addr.arpa.", dns.TypePTR, dns.RcodeRefused, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := ask(t, s, network, question(c.name, c.kind))
			var got []string
			for _, rr := range r.Answer {
				if rr.Header().Name != c.name || rr.Header().Ttl > 60 {
					t.Errorf("%s %s: answer %s", network, c.name, rr)
				}
				got = append(got, strings.TrimPrefix(rr.String(), rr.Header().String()))
			}
			slices.Sort(got)
			if r.Rcode != c.rcode || strings.Join(got, " ") != c.want || r.RecursionAvailable {
				t.Errorf("%s %s %d: %v", network, c.name, c.kind, r)
			}
			if c.rcode == dns.RcodeSuccess && c.want == "" && len(r.Ns) != 1 {
				t.Errorf("%s %s: a resolver cannot remember this: %v", network, c.name, r)
			}
		}
	}
}

func TestOtherMessages(t *testing.T) {
	s := open(t)
	update := question("box.example.", dns.TypeA)
	update.Opcode = dns.OpcodeNotify
	chaos := question("localhost.", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	for name, c := range map[string]struct {
		q     *dns.Msg
		rcode int
	}{
		"notify": {update, dns.RcodeNotImplemented},
		"chaos":  {chaos, dns.RcodeRefused},
	} {
		if r := ask(t, s, "udp", c.q); r.Rcode != c.rcode {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// TestGarbage sends what is no question; the server answers the next that is.
func TestGarbage(t *testing.T) {
	s := open(t)
	conn, err := net.Dial("udp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, b := range [][]byte{{0}, []byte(strings.Repeat("\xff", 500)), []byte("\x00\x01\x01\x00\xff\xff\x00\x00\x00\x00\x00\x00\xc0\x0c")} {
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if r := ask(t, s, "udp", question("localhost.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("%v", r)
	}
}

// TestManyConnections holds more of them than there is room for; as soon as one
// ends the next is served.
func TestManyConnections(t *testing.T) {
	s := open(t)
	var held []net.Conn
	for range 80 {
		conn, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
	}
	if r := ask(t, s, "udp", question("localhost.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("datagrams: %v", r)
	}
	for _, conn := range held {
		conn.Close()
	}
	if r := ask(t, s, "tcp", question("localhost.", dns.TypeA)); len(r.Answer) != 1 {
		t.Errorf("after: %v", r)
	}
}

func TestAddressInUse(t *testing.T) {
	s := open(t)
	_, err := nameserver.Open(t.Context(), nameserver.Options{Addr: s.Addr(), Logger: slog.New(slog.DiscardHandler)})
	if !errs.Is(err, errs.Invalid) || !strings.Contains(fmt.Sprint(err), "dns.addr") {
		t.Errorf("Open = %v", err)
	}
}
