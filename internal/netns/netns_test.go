package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

var protocols = []string{"tcp4", "udp4"}

func TestOutsideSeesTheHost(t *testing.T) {
	n := openNetwork(t, nil)
	far := internet(t)
	serve(t, far, 80)
	a := attach(t, n, 1)
	for _, p := range protocols {
		answer := wantAnswer(t, a.pid, p, farAddress.String()+":80")
		if host, _, _ := net.SplitHostPort(answer); host != hostAddress.String() {
			t.Errorf("over %s the internet sees %q, want the host's address", p, answer)
		}
	}
}

// Every sandbox has the same address: the same source port to the same server
// must still be two connections.
func TestSameSourcePort(t *testing.T) {
	n := openNetwork(t, nil)
	far := internet(t)
	serve(t, far, 80)
	boxes := []box{attach(t, n, 1), attach(t, n, 2), attach(t, n, 3)}
	var open []net.Conn
	seen := map[string]bool{}
	for _, b := range boxes {
		var c net.Conn
		must(t, within(b.pid, func() (err error) {
			d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: InnerAddr.AsSlice(), Port: 40000}}
			c, err = d.Dial("tcp4", farAddress.String()+":80")
			return err
		}))
		defer c.Close()
		open = append(open, c)
	}
	for range 3 { // in turn: answers must not go to the others
		for i, c := range open {
			answer := exchange(t, c, "who am I?")
			seen[answer] = true
			word := fmt.Sprintf("sandbox %d", i)
			if got := exchange(t, c, word); got != word {
				t.Errorf("sandbox %d was answered %q", i, got)
			}
		}
	}
	if len(seen) != len(boxes) {
		t.Errorf("the internet sees %d sources for %d sandboxes: %v", len(seen), len(boxes), seen)
	}
}

func exchange(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	_, err := io.WriteString(c, text)
	must(t, err)
	buf := make([]byte, 200)
	k, err := c.Read(buf)
	must(t, err)
	return string(buf[:k])
}

// Checksums are mended after rewriting, also for large and for cut packets.
func TestBulk(t *testing.T) {
	n := openNetwork(t, nil)
	far := internet(t)
	serve(t, far, 80)
	a := attach(t, n, 1)
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(rand.Uint32()) | 0x80 // never the word the server knows
	}
	var c, u net.Conn
	must(t, within(a.pid, func() (err error) {
		if c, err = net.DialTimeout("tcp4", farAddress.String()+":80", 2*time.Second); err != nil {
			return err
		}
		u, err = net.Dial("udp4", farAddress.String()+":80")
		return err
	}))
	defer c.Close()
	defer u.Close()
	must(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	var sender sync.WaitGroup
	sender.Go(func() { _, _ = c.Write(data) })
	got := make([]byte, len(data))
	_, err := io.ReadFull(c, got)
	must(t, err)
	sender.Wait()
	if !bytes.Equal(got, data) {
		t.Error("TCP changed the data")
	}
	must(t, u.SetDeadline(time.Now().Add(2*time.Second)))
	_, err = u.Write(data[:9000]) // more than one packet
	must(t, err)
	k, err := u.Read(got)
	must(t, err)
	if !bytes.Equal(got[:k], data[:9000]) {
		t.Error("UDP changed the data")
	}
}

func TestSandboxesDoNotSeeEachOther(t *testing.T) {
	n := openNetwork(t, nil)
	a, b := attach(t, n, 1), attach(t, n, 2)
	serve(t, b.pid, 8080)
	for _, p := range protocols {
		wantAnswer(t, b.pid, p, InnerAddr.String()+":8080") // it serves itself
		wantSilence(t, a.pid, p, b.link.Addr.String()+":8080", nil)
		wantSilence(t, a.pid, p, InnerAddr.String()+":8080", nil) // that is a itself
		wantSilence(t, a.pid, p, "169.254.0.25:8080", nil)
	}
}

// askHost asks from the host itself.
func askHost(t *testing.T, network, address string) string {
	t.Helper()
	c, err := net.DialTimeout(network, address, 2*time.Second)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer c.Close()
	return exchange(t, c, "who am I?")
}

func TestTheHostIsOutOfReach(t *testing.T) {
	n := openNetwork(t, nil)
	internet(t)
	a := attach(t, n, 1)
	attach(t, n, 2)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	public := netip.MustParseAddr("203.0.113.9") // looks like the internet, but is the host's own
	must(t, netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(public, 32)}))
	t.Cleanup(func() { _ = netlink.AddrDel(lo, &netlink.Addr{IPNet: ipNet(public, 32)}) })
	serve(t, 0, 9999)
	var wg sync.WaitGroup
	for _, address := range []string{
		hostAddress.String(), public.String(), GatewayAddr.String(), "127.0.0.1", "10.200.0.1", "10.200.0.2",
		"255.255.255.255", "169.254.0.23", "0.0.0.0",
	} {
		for _, p := range protocols {
			wg.Go(func() { wantSilence(t, a.pid, p, address+":9999", nil) })
		}
	}
	wg.Wait()
	if got := askHost(t, "tcp4", public.String()+":9999"); got == "" {
		t.Error("the server does not answer, so nothing is proved")
	}
}

func TestPrivateRangesAreOutOfReach(t *testing.T) {
	n := openNetwork(t, nil)
	far := internet(t)
	serve(t, far, 80)
	a := attach(t, n, 1)
	wantAnswer(t, a.pid, "tcp4", farAddress.String()+":80")
	var wg sync.WaitGroup
	for _, address := range neighbours {
		for _, p := range protocols {
			if p == "tcp4" && askHost(t, p, address+":80") == "" {
				t.Errorf("the host does not reach %s, so nothing is proved", address)
			}
			wg.Go(func() { wantSilence(t, a.pid, p, address+":80", nil) })
		}
	}
	wg.Wait()
}

// A sandbox that gives itself another address is not heard with it.
func TestSpoofedSourcesAreDropped(t *testing.T) {
	n := openNetwork(t, nil)
	far := internet(t)
	serve(t, far, 80)
	a, b := attach(t, n, 1), attach(t, n, 2)
	var heard net.PacketConn
	must(t, within(far, func() (err error) { heard, err = net.ListenPacket("udp4", "0.0.0.0:5353"); return err }))
	defer heard.Close()
	for _, false := range []netip.Addr{b.link.Addr, a.link.Addr, farAddress, hostAddress, netip.MustParseAddr("203.0.113.50")} {
		must(t, within(a.pid, func() error {
			eth, err := netlink.LinkByName(innerName)
			if err != nil {
				return err
			}
			return netlink.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(false, 32)})
		}))
		wantSilence(t, a.pid, "tcp4", "198.51.100.2:80", &net.TCPAddr{IP: false.AsSlice()})
		must(t, within(a.pid, func() error {
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: false.AsSlice()}, &net.UDPAddr{IP: farAddress.AsSlice(), Port: 5353})
			if err != nil {
				return nil // the kernel itself refused to send
			}
			defer c.Close()
			_, _ = c.Write([]byte("spoofed"))
			return nil
		}))
	}
	must(t, heard.SetReadDeadline(time.Now().Add(patience)))
	if _, from, err := heard.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("the internet heard a packet from %s", from)
	}
}

func TestUnsolicitedPacketsAreDropped(t *testing.T) {
	n := openNetwork(t, nil)
	far := internet(t)
	a := attach(t, n, 1)
	serve(t, a.pid, 8080)
	for _, p := range protocols {
		wantSilence(t, far, p, a.link.Addr.String()+":8080", nil)
		wantSilence(t, far, p, InnerAddr.String()+":8080", nil)
	}
	// Also from a source that belongs to the sandboxes' net.
	wantSilence(t, far, "tcp4", a.link.Addr.String()+":8080", &net.TCPAddr{IP: net.IPv4(10, 200, 77, 7)})
}

// A server that ends leaves its sandboxes connected, and the next one takes
// them over without a connection noticing.
func TestLivingLinksGoOn(t *testing.T) {
	testreq.Root(t)
	far := internet(t)
	serve(t, far, 80)
	first, err := Open(t.Context(), Options{Table: testTable, Logger: discard}, nil)
	must(t, err)
	a := attach(t, first, 1)
	var c net.Conn
	must(t, within(a.pid, func() (err error) {
		c, err = net.DialTimeout("tcp4", farAddress.String()+":80", 2*time.Second)
		return err
	}))
	defer c.Close()
	before := exchange(t, c, "who am I?")
	must(t, first.Close(t.Context()))
	wantAnswer(t, a.pid, "tcp4", farAddress.String()+":80") // nobody serves now
	second := openNetwork(t, nil, a.link)
	if after := exchange(t, c, "who am I?"); after != before {
		t.Errorf("the connection was from %s and is from %s", before, after)
	}
	wantAnswer(t, a.pid, "udp4", farAddress.String()+":80")
	b := attach(t, second, 2)
	wantAnswer(t, b.pid, "tcp4", farAddress.String()+":80")
	// One that is not named any more is cut off.
	openNetwork(t, nil, b.link)
	wantSilence(t, a.pid, "tcp4", farAddress.String()+":80", nil)
	wantAnswer(t, b.pid, "tcp4", farAddress.String()+":80")
}

// The host may use the sandboxes' range for something else, and its packets are
// its own affair.
func TestOthersAreNotMasqueraded(t *testing.T) {
	openNetwork(t, nil)
	far := internet(t)
	serve(t, far, 80)
	up, err := netlink.LinkByName("up0")
	must(t, err)
	other := netip.MustParseAddr("10.200.99.1")
	must(t, netlink.AddrAdd(up, &netlink.Addr{IPNet: ipNet(other, 32)}))
	d := net.Dialer{Timeout: 2 * time.Second, LocalAddr: &net.TCPAddr{IP: other.AsSlice()}}
	c, err := d.Dial("tcp4", farAddress.String()+":80")
	must(t, err)
	defer c.Close()
	if answer := exchange(t, c, "who am I?"); !strings.HasPrefix(answer, other.String()+":") {
		t.Errorf("the internet sees %s, want %s", answer, other)
	}
}

// A sandbox that ended while no server ran leaves nothing in the table: its
// interface's name may come to be another server's.
func TestLinksOfTheDeadAreLeftOut(t *testing.T) {
	n := openNetwork(t, nil)
	a := attach(t, n, 1)
	openNetwork(t, nil, a.link, linkOf(77))
	if got := elements(t); !slices.Equal(got, []string{a.link.Name}) {
		t.Errorf("elements %v", got)
	}
}

func elements(t *testing.T) []string {
	t.Helper()
	conn, err := nftables.New()
	must(t, err)
	set, err := conn.GetSetByName(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: testTable}, "addresses")
	must(t, err)
	list, err := conn.GetSetElements(set)
	must(t, err)
	var out []string
	for _, e := range list {
		out = append(out, string(bytes.TrimRight(e.Key, "\x00")))
	}
	slices.Sort(out)
	return out
}

func TestDetachAndForget(t *testing.T) {
	n := openNetwork(t, nil)
	a, b := attach(t, n, 1), attach(t, n, 2)
	for range 3 {
		must(t, n.Detach(t.Context(), a.link))
	}
	if Exists(a.link.Name) || slices.Contains(elements(t), a.link.Name) {
		t.Error("a detached link is still there")
	}
	for range 3 {
		must(t, n.Forget(b.link))
	}
	if !Exists(b.link.Name) || slices.Contains(elements(t), b.link.Name) {
		t.Error("Forget must drop the entry and leave the interface")
	}
	must(t, n.Detach(t.Context(), linkOf(200))) // never attached
	must(t, n.Attach(t.Context(), a.pid, a.link))
	if got := elements(t); !slices.Equal(got, []string{a.link.Name}) {
		t.Errorf("elements %v", got)
	}
}

func TestAttachFailsWhole(t *testing.T) {
	n := openNetwork(t, nil)
	a := attach(t, n, 1)
	for name, l := range map[string]Link{
		"the interface's name is taken": a.link,
		"the name inside is taken":      linkOf(3),
		"the name is too long":          {Name: "sl-with-a-very-long-name", Addr: linkOf(4).Addr},
	} {
		if err := n.Attach(t.Context(), a.pid, l); err == nil {
			t.Errorf("%s: attached", name)
		}
	}
	if err := n.Attach(t.Context(), 1<<22, linkOf(5)); err == nil {
		t.Error("attached a process that does not exist")
	}
	names, err := Interfaces("sl")
	must(t, err)
	if !slices.Equal(names, []string{a.link.Name}) {
		t.Errorf("interfaces %v are left", names)
	}
	if got := elements(t); !slices.Equal(got, []string{a.link.Name}) {
		t.Errorf("elements %v are left", got)
	}
}

// The interface goes with the sandbox's namespace.
func TestInterfaceGoesWithTheProcess(t *testing.T) {
	n := openNetwork(t, nil)
	l := linkOf(9)
	t.Run("", func(t *testing.T) { // ends the process
		must(t, n.Attach(t.Context(), holder(t), l))
	})
	for deadline := time.Now().Add(5 * time.Second); Exists(l.Name); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the interface is still there")
		}
	}
	must(t, n.Detach(t.Context(), l))
	must(t, RemoveInterface(l.Name)) // a missing one is fine
}

func TestManyAtOnce(t *testing.T) {
	n := openNetwork(t, nil)
	far := internet(t)
	serve(t, far, 80)
	var wg sync.WaitGroup
	for i := range 12 {
		b := box{holder(t), linkOf(20 + i)}
		wg.Go(func() {
			for range 3 {
				if err := n.Attach(context.Background(), b.pid, b.link); err != nil {
					t.Error(err)
					return
				}
				wantAnswer(t, b.pid, "tcp4", farAddress.String()+":80")
				if err := n.Detach(context.Background(), b.link); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := elements(t); len(got) > 0 {
		t.Errorf("elements %v are left", got)
	}
}

func forwarding(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(forwardingSysctl)
	must(t, err)
	return strings.TrimSpace(string(data))
}

func TestForwardingIsRestored(t *testing.T) {
	testreq.Root(t)
	for _, before := range []string{"0", "1"} {
		t.Run(before, func(t *testing.T) {
			must(t, os.WriteFile(forwardingSysctl, []byte(before), 0))
			n, err := Open(t.Context(), Options{Table: testTable, Logger: discard}, nil)
			must(t, err)
			if got := forwarding(t); got != "1" {
				t.Errorf("forwarding is %s with a server", got)
			}
			other, err := Open(t.Context(), Options{Table: testTable + "-2", Logger: discard}, nil)
			must(t, err)
			must(t, n.Close(t.Context()))
			must(t, RemoveTable(testTable))
			must(t, RestoreForwarding())
			if got := forwarding(t); got != "1" {
				t.Errorf("forwarding is %s while another server needs it", got)
			}
			must(t, other.Close(t.Context()))
			for range 2 {
				must(t, RemoveTable(testTable+"-2"))
				must(t, RestoreForwarding())
			}
			if got := forwarding(t); got != before {
				t.Errorf("forwarding is %s, was %s", got, before)
			}
			if _, err := os.Stat(forwardingBefore); !errors.Is(err, os.ErrNotExist) {
				t.Error("the host's setting is still remembered")
			}
		})
	}
	must(t, os.WriteFile(forwardingSysctl, []byte("0"), 0))
}

// After all of it nothing is left in the namespace that stands for the host.
func TestNothingIsLeft(t *testing.T) {
	testreq.Root(t)
	t.Run("use", func(t *testing.T) {
		n := openNetwork(t, nil)
		attach(t, n, 1)
		attach(t, n, 2)
	})
	conn, err := nftables.New()
	must(t, err)
	tables, err := conn.ListTables()
	must(t, err)
	if len(tables) > 0 {
		t.Errorf("%d tables are left", len(tables))
	}
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" && l.Type() == "veth" {
			t.Errorf("interface %s is left", name)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	must(t, err)
	if len(routes) > 0 {
		t.Errorf("routes are left: %v", routes)
	}
	if got := forwarding(t); got != "0" {
		t.Errorf("forwarding is %s", got)
	}
}
