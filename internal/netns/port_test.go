package netns

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

func TestStoredPort(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dns-port")
	if got := storedPort(file); got != 0 {
		t.Errorf("no file: port %d", got)
	}
	for text, want := range map[string]uint16{"4711\n": 4711, "": 0, "-1": 0, "70000": 0, "port": 0} {
		must(t, os.WriteFile(file, []byte(text), 0o600))
		if got := storedPort(file); got != want {
			t.Errorf("%q: port %d, want %d", text, got, want)
		}
	}
	must(t, storePort(file, 1234))
	must(t, storePort(file, 1234))
	must(t, storePort("", 1234))
	if got := storedPort(file); got != 1234 {
		t.Errorf("stored 1234, read %d", got)
	}
	if entries, _ := os.ReadDir(filepath.Dir(file)); len(entries) != 1 {
		t.Errorf("%d files are left beside the stored port", len(entries))
	}
}

// A program that keeps its socket for name queries is still answered after the
// server was started again.
func TestNamesAfterRestart(t *testing.T) {
	testreq.Root(t)
	o := Options{Table: testTable, Upstreams: []string{upstream(t)}, Logger: discard, StateFile: filepath.Join(t.TempDir(), "dns-port")}
	open := func(living ...Link) *Network {
		n, err := Open(t.Context(), o, living)
		must(t, err)
		return n
	}
	t.Cleanup(func() { must(t, RemoveTable(testTable)); must(t, RestoreForwarding()) })
	first := open()
	a := attach(t, first, 1)
	var c net.Conn
	must(t, within(a.pid, func() (err error) { c, err = net.Dial("udp4", nameServer); return err }))
	defer c.Close()
	conn := &dns.Conn{Conn: c}
	query := func() {
		t.Helper()
		must(t, c.SetDeadline(time.Now().Add(3*time.Second)))
		must(t, conn.WriteMsg(new(dns.Msg).SetQuestion("example.test.", dns.TypeA)))
		if _, err := conn.ReadMsg(); err != nil {
			t.Error(err)
		}
	}
	query()
	must(t, first.Close(t.Context()))
	second := open(a.link)
	query()
	must(t, second.Close(t.Context()))

	// Somebody else took the port meanwhile: another one, also over TCP only.
	taken := netip.AddrPortFrom(GatewayAddr, second.dns.port)
	var lc net.ListenConfig
	lc.Control = freeBind
	l, err := lc.Listen(t.Context(), "tcp4", taken.String())
	must(t, err)
	defer l.Close()
	third := open(a.link)
	if third.dns.port == taken.Port() || storedPort(o.StateFile) != third.dns.port {
		t.Errorf("port %d, stored %d, taken %d", third.dns.port, storedPort(o.StateFile), taken.Port())
	}
	must(t, third.Close(t.Context()))
}
