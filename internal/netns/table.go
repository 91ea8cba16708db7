package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// table is the server's nftables table:
//
//	map addresses { ifname : ipv4 }        one element per sandbox
//	prerouting -310  source is the inner address, or drop; rewrite it to the unique one
//	prerouting -100  name queries to the gateway go to the forwarder's port
//	input       -1   from a sandbox: only the forwarder
//	forward     -1   from a sandbox: no private destination; to a sandbox: only answers
//	postrouting 100  from a sandbox: masquerade
//	postrouting 300  destination back to the inner address
//
// Sandboxes come and go as map elements: 40 µs, however many there are.
type table struct {
	conn      *nftables.Conn
	table     *nftables.Table
	addresses *nftables.Set
}

// privateNets are what sandboxes may not reach: this host and its neighbours,
// by every address range that is not the internet's (RFC 6890).
var privateNets = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

// installTable replaces the table in one transaction: packets see the old rules
// or the new ones.
func installTable(name string, dnsPort uint16, links []Link) (*table, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	t := &table{conn: conn, table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}}
	conn.AddTable(t.table) // so that deleting it cannot fail
	conn.DelTable(t.table)
	conn.AddTable(t.table)
	if err := t.addSets(links); err != nil {
		return nil, errors.Join(err, t.close())
	}
	private, err := t.addPrivate()
	if err != nil {
		return nil, errors.Join(err, t.close())
	}
	t.addRewriting()
	t.addNames(dnsPort)
	t.addFilters(dnsPort, private)
	if err := conn.Flush(); err != nil {
		return nil, errors.Join(fmt.Errorf("install nftables table %s: %w", name, err), t.close())
	}
	return t, nil
}

func (t *table) addSets(links []Link) error {
	t.addresses = &nftables.Set{
		Table: t.table, Name: "addresses", IsMap: true,
		KeyType: nftables.TypeIFName, DataType: nftables.TypeIPAddr,
	}
	var elements []nftables.SetElement
	for _, l := range links {
		elements = append(elements, element(l))
	}
	return t.conn.AddSet(t.addresses, elements)
}

func (t *table) addPrivate() (*nftables.Set, error) {
	set := &nftables.Set{Table: t.table, Name: "private", KeyType: nftables.TypeIPAddr, Interval: true}
	var elements []nftables.SetElement
	for _, p := range privateNets {
		elements = append(elements, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end, ok := after(p); ok {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return set, t.conn.AddSet(set, elements)
}

// after returns the first address behind p, none at the end of all addresses.
func after(p netip.Prefix) (netip.Addr, bool) {
	a := p.Addr().As4()
	end := uint64(binary.BigEndian.Uint32(a[:])) + 1<<(32-p.Bits())
	if end > 0xffffffff {
		return netip.Addr{}, false
	}
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], uint32(end))
	return netip.AddrFrom4(out), true
}

func element(l Link) nftables.SetElement {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, l.Name)
	return nftables.SetElement{Key: name, Val: l.Addr.AsSlice()}
}

func (t *table) chain(name string, typ nftables.ChainType, hook *nftables.ChainHook, priority int32) *nftables.Chain {
	p := nftables.ChainPriority(priority)
	return t.conn.AddChain(&nftables.Chain{Table: t.table, Name: name, Type: typ, Hooknum: hook, Priority: &p})
}

func (t *table) rule(c *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: c, Exprs: all})
}

func (t *table) addRewriting() {
	in := t.chain("enter", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -310)
	t.rule(in, t.from(), source(), cmp(expr.CmpOpNeq, InnerAddr.AsSlice()), verdict(expr.VerdictDrop))
	t.rule(in, t.from(), write(sourceOffset, 2))
	out := t.chain("leave", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, 300)
	t.rule(out, t.to(), []expr.Any{&expr.Immediate{Register: 1, Data: InnerAddr.AsSlice()}}, write(destinationOffset, 1))
	nat := t.chain("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
	// By the interface it came in at, which postrouting knows since Linux 5.7: the
	// host may use the same range for something else.
	t.rule(nat, t.from(), []expr.Any{&expr.Masq{}})
}

func (t *table) addNames(port uint16) {
	c := t.chain("names", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100)
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		t.rule(c, t.from(), destination(), cmp(expr.CmpOpEq, GatewayAddr.AsSlice()), protocol(proto),
			port16(53), []expr.Any{
				&expr.Immediate{Register: 1, Data: GatewayAddr.AsSlice()},
				&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
			})
	}
}

func (t *table) addFilters(port uint16, private *nftables.Set) {
	in := t.chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, -1)
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		t.rule(in, t.from(), destination(), cmp(expr.CmpOpEq, GatewayAddr.AsSlice()), protocol(proto),
			port16(port), verdict(expr.VerdictAccept))
	}
	t.rule(in, t.from(), verdict(expr.VerdictDrop))
	fwd := t.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, -1)
	t.rule(fwd, t.from(), destination(), []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: private.Name, SetID: private.ID}},
		verdict(expr.VerdictDrop))
	t.rule(fwd, t.to(), notAnswer(), verdict(expr.VerdictDrop))
}

// add lets a sandbox's packets in and out.
func (t *table) add(l Link) error {
	if err := t.conn.SetAddElements(t.addresses, []nftables.SetElement{element(l)}); err != nil {
		return err
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("add %s to nftables: %w", l.Name, err)
	}
	return nil
}

// remove is idempotent.
func (t *table) remove(l Link) error {
	if err := t.conn.SetDeleteElements(t.addresses, []nftables.SetElement{element(l)}); err != nil {
		return err
	}
	if err := t.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s from nftables: %w", l.Name, err)
	}
	return nil
}

func (t *table) close() error { return t.conn.CloseLasting() }

// RemoveTable removes a server's table; a missing one is fine.
func RemoveTable(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: name})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove nftables table %s: %w", name, err)
	}
	return nil
}
