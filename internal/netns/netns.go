// Package netns gives sandboxes their network: a veth pair each, without a
// bridge, and one nftables table per server that tells them apart, lets them
// reach the outside and nothing else.
//
// Inside, every sandbox has the same address and hardware address, so that a
// checkpoint of it can be restored anywhere. The host knows each by its
// interface: on entry the source is rewritten to an address that is unique on
// the host, on exit the destination back, both statelessly.
//
// It owns the table, the interfaces and the DNS forwarder. Node imports it.
package netns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses every sandbox sees: its own, and the host's end, which is its
// gateway and name server.
var (
	InnerAddr   = netip.MustParseAddr("169.254.0.21")
	GatewayAddr = netip.MustParseAddr("169.254.0.22")
	innerMAC    = net.HardwareAddr{0x02, 0x53, 0x4c, 0, 0, 0x15}
	gatewayMAC  = net.HardwareAddr{0x02, 0x53, 0x4c, 0, 0, 0x16}
)

// OuterNet holds the unique addresses.
var OuterNet = netip.MustParsePrefix("10.200.0.0/16")

const innerName = "eth0"

// Link is one sandbox's connection.
type Link struct {
	// Name is the host's interface.
	Name string
	// Addr is the unique address the host uses for the sandbox.
	Addr netip.Addr
}

// Options configure a Network.
type Options struct {
	// Table is the name of the nftables table, unique to the server.
	Table string
	// Upstreams are name servers as host:port; empty follows the host's
	// resolv.conf.
	Upstreams []string
	// StateFile is where the port of the name server is kept over restarts, so
	// that flows of living sandboxes go on; empty means nowhere.
	StateFile string
	Logger    *slog.Logger
}

// Network is the network of one server's sandboxes. It is safe for concurrent use.
type Network struct {
	opts   Options
	handle *netlink.Handle
	dns    *forwarder

	mu    sync.Mutex
	table *table
}

// Open installs the table with the links of sandboxes that live already, and
// starts the name server. A link whose interface is gone is left out: its
// sandbox has ended, and the name may come to belong to another server.
func Open(ctx context.Context, o Options, living []Link) (*Network, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	n := &Network{opts: o, handle: handle}
	if n.dns, err = startForwarder(o); err != nil {
		n.handle.Close()
		return nil, err
	}
	if n.table, err = installTable(o.Table, n.dns.port, present(living)); err != nil {
		return nil, errors.Join(err, n.Close(ctx))
	}
	if err := enableForwarding(); err != nil {
		return nil, errors.Join(err, n.Close(ctx))
	}
	return n, nil
}

func present(links []Link) []Link {
	return slices.DeleteFunc(slices.Clone(links), func(l Link) bool { return !Exists(l.Name) })
}

// Close stops the name server. Living sandboxes keep their connections; Remove
// takes these away.
func (n *Network) Close(context.Context) error {
	n.handle.Close()
	err := n.dns.stop()
	if n.table != nil {
		err = errors.Join(err, n.table.close())
	}
	return err
}

// Attach connects the network namespace of process pid. On error nothing is
// left behind.
func (n *Network) Attach(ctx context.Context, pid int, l Link) error {
	if err := n.makeLink(pid, l); err != nil {
		return fmt.Errorf("attach network %s: %w", l.Name, err)
	}
	if err := n.configure(pid, l); err != nil {
		return errors.Join(fmt.Errorf("attach network %s: %w", l.Name, err), n.Detach(ctx, l))
	}
	return nil
}

// makeLink makes the pair, the inner end directly in its namespace. One queue
// each halves the time it takes to make and to remove.
func (n *Network) makeLink(pid int, l Link) error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{
			Name: l.Name, HardwareAddr: gatewayMAC, NumTxQueues: 1, NumRxQueues: 1, TxQLen: -1,
		},
		PeerName: innerName, PeerHardwareAddr: innerMAC, PeerNamespace: netlink.NsPid(pid),
		PeerNumTxQueues: 1, PeerNumRxQueues: 1, PeerTxQLen: -1,
	}
	if err := n.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth: %w", err)
	}
	return nil
}

func (n *Network) configure(pid int, l Link) error {
	if err := n.configureOuter(l); err != nil {
		return fmt.Errorf("configure host end: %w", err)
	}
	if err := configureInner(pid); err != nil {
		return fmt.Errorf("configure inner end: %w", err)
	}
	if err := n.activate(l); err != nil {
		return fmt.Errorf("activate host end: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.table.add(l)
}

// activate makes the host end transmit. It got its carrier when the inner end
// came up, but the kernel acts on that in the background, under load up to a
// second later, and drops packets until then. Being asked about the link makes
// it act at once (Linux 6.8); before that, a change of the queue's length does.
func (n *Network) activate(l Link) error {
	link, err := n.handle.LinkByName(l.Name)
	if err != nil || link.Attrs().OperState == netlink.OperUp {
		return err
	}
	return n.handle.LinkSetTxQLen(link, link.Attrs().TxQLen+1)
}

func (n *Network) configureOuter(l Link) error {
	// A host that has IPv6 would otherwise send router solicitations into
	// every sandbox. Without IPv6 there is nothing to switch off.
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+l.Name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	link, err := n.handle.LinkByName(l.Name)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	// Of link scope, so that the host never speaks to others with it.
	gateway := &netlink.Addr{IPNet: ipNet(GatewayAddr, 32), Scope: int(netlink.SCOPE_LINK)}
	if err := n.handle.AddrAdd(link, gateway); err != nil {
		return err
	}
	if err := n.handle.LinkSetUp(link); err != nil {
		return err
	}
	if err := n.handle.NeighAdd(permanent(index, l.Addr, innerMAC)); err != nil {
		return err
	}
	return n.handle.RouteAdd(&netlink.Route{LinkIndex: index, Dst: ipNet(l.Addr, 32), Scope: netlink.SCOPE_LINK})
}

func configureInner(pid int) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(innerName)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	// Of global scope, although the range is link-local: the kernel takes no
	// address of a narrower scope as the source of packets to the outside.
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(InnerAddr, 30), Scope: int(netlink.SCOPE_UNIVERSE)}); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	if err := h.NeighAdd(permanent(index, GatewayAddr, gatewayMAC)); err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: GatewayAddr.AsSlice()})
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}

func permanent(index int, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
}

// Detach removes a link and its entry. It is idempotent. When the sandbox's
// namespace is gone already, the kernel has removed the interface, or will.
func (n *Network) Detach(_ context.Context, l Link) error {
	n.mu.Lock()
	err := n.table.remove(l)
	n.mu.Unlock()
	link, lookup := n.handle.LinkByName(l.Name)
	if lookup != nil {
		return err // gone
	}
	if del := n.handle.LinkDel(link); del != nil && !errors.Is(del, unix.ENODEV) {
		err = errors.Join(err, fmt.Errorf("remove interface %s: %w", l.Name, del))
	}
	return err
}

// Forget drops a link's entry and leaves the interface to the kernel, which
// removes it with the sandbox's namespace.
func (n *Network) Forget(l Link) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.table.remove(l)
}

// Interfaces lists the host's interfaces whose name begins with prefix.
func Interfaces(prefix string) ([]string, error) {
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// RemoveInterface removes an interface by name; a missing one is fine.
func RemoveInterface(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil //nolint:nilerr // not there: what was asked for
	}
	return netlink.LinkDel(link)
}

// Exists reports whether the host has an interface of this name.
func Exists(name string) bool {
	_, err := os.Lstat("/sys/class/net/" + name)
	return err == nil
}
