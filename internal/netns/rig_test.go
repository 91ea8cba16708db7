package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// The tests run in a network and mount namespace of their own, which stands for
// the host: nothing they do reaches the machine. A further namespace behind a
// veth pair stands for the internet and the neighbours, and processes in fresh
// ones for sandboxes.
const (
	roleVar    = "SANDLOT_NETNS_ROLE"
	roleHost   = "host"
	roleHolder = "holder"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case roleHolder: // keeps a namespace until its standard input ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	case roleHost:
		if err := prepareHost(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare the test's host:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	os.Exit(runAsHost())
}

// runAsHost executes the tests again in namespaces of their own.
func runAsHost() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleHost)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Unshareflags: 0, Pdeathsig: syscall.SIGKILL,
	}
	runtime.LockOSThread() // the parent-death signal follows the thread
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// The host's address on the internet, and the internet's.
var (
	hostAddress = netip.MustParseAddr("198.51.100.1")
	farAddress  = netip.MustParseAddr("198.51.100.2")
)

func prepareHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	// /sys shows the interfaces of the namespace it was mounted in; /run holds
	// what is remembered of the host's settings.
	for target, fstype := range map[string]string{"/sys": "sysfs", "/run": "tmpfs"} {
		if err := unix.Mount("test", target, fstype, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// holder starts a process in a fresh network namespace and returns its id.
func holder(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleVar + "=" + roleHolder}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	must(t, cmd.Start())
	t.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	pid := cmd.Process.Pid
	must(t, within(pid, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	return pid
}

// within runs f in the network namespace of a process. Sockets f makes stay there.
func within(pid int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// neighbours are addresses at the internet's side that no sandbox may reach.
var neighbours = []string{
	"10.1.2.3", "10.200.77.7", "100.64.1.1", "169.254.169.254", "169.254.0.26", "172.16.5.5", "172.31.255.254",
	"192.0.0.8", "192.168.7.7", "198.18.0.1",
}

// internet makes the namespace behind the host's interface and returns the
// process that holds it. It knows the way back to everything.
func internet(t testing.TB) int {
	t.Helper()
	pid := holder(t)
	const near, far = "up0", "up1"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: far, PeerNamespace: netlink.NsPid(pid)}))
	t.Cleanup(func() { _ = RemoveInterface(near) })
	link, err := netlink.LinkByName(near)
	must(t, err)
	must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(hostAddress, 24)}))
	must(t, netlink.LinkSetUp(link))
	must(t, within(pid, func() error { return prepareFar(far) }))
	for _, n := range neighbours {
		must(t, netlink.RouteReplace(&netlink.Route{Dst: ipNet(netip.MustParseAddr(n), 32), Gw: farAddress.AsSlice()}))
	}
	return pid
}

func prepareFar(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(farAddress, 24)}); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, n := range neighbours {
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParseAddr(n), 32)}); err != nil {
			return err
		}
	}
	return netlink.RouteAdd(&netlink.Route{Gw: hostAddress.AsSlice()})
}

const testTable = TablePrefix + "test"

// openNetwork opens a network that ends with the test.
func openNetwork(t testing.TB, upstreams []string, living ...Link) *Network {
	t.Helper()
	testreq.Root(t)
	n, err := Open(context.Background(), Options{
		Table: testTable, Upstreams: upstreams, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}, living)
	must(t, err)
	t.Cleanup(func() {
		if err := errors.Join(n.Close(context.Background()), RemoveTable(testTable), RestoreForwarding()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// box is a process that stands for a sandbox.
type box struct {
	pid  int
	link Link
}

func linkOf(i int) Link {
	return Link{Name: fmt.Sprintf("sl%d", i), Addr: netip.AddrFrom4([4]byte{10, 200, 0, byte(i)})}
}

func attach(t testing.TB, n *Network, number int) box {
	t.Helper()
	b := box{holder(t), linkOf(number)}
	must(t, n.Attach(t.Context(), b.pid, b.link))
	t.Cleanup(func() { _ = RemoveInterface(b.link.Name) })
	return b
}

// patience is how long something forbidden is waited for.
const patience = 250 * time.Millisecond

// ask connects from a namespace and returns the answer of a server made by
// serve: the address it was asked from.
func ask(pid int, network, address string, local net.Addr) (string, error) {
	var answer string
	err := within(pid, func() error {
		d := net.Dialer{Timeout: patience, LocalAddr: local}
		c, err := d.Dial(network, address)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(c, "who am I?"); err != nil {
			return err
		}
		buf := make([]byte, 200)
		n, err := c.Read(buf)
		answer = string(buf[:n])
		return err
	})
	return answer, err
}

// serve answers at every address of a namespace, over TCP and UDP, with the
// address the question came from. A pid of 0 means the host.
func serve(t testing.TB, pid int, port uint16) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	open := func() (err error) {
		address := fmt.Sprintf("0.0.0.0:%d", port)
		if l, err = net.Listen("tcp4", address); err != nil {
			return err
		}
		p, err = net.ListenPacket("udp4", address)
		return err
	}
	if pid == 0 {
		must(t, open())
	} else {
		must(t, within(pid, open))
	}
	t.Cleanup(func() { l.Close(); p.Close() })
	go serveTCP(l)
	go serveUDP(p)
}

func serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if strings.HasPrefix(string(buf[:n]), "who") {
					_, _ = io.WriteString(c, c.RemoteAddr().String())
				} else if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

func serveUDP(p net.PacketConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		answer := buf[:n]
		if strings.HasPrefix(string(answer), "who") {
			answer = []byte(from.String())
		}
		_, _ = p.WriteTo(answer, from)
	}
}

// wantAnswer proves that an address answers, and returns with which words.
func wantAnswer(t *testing.T, pid int, network, address string) string {
	t.Helper()
	var err error
	for range 4 { // the first packet may wait for a neighbour's address
		var answer string
		if answer, err = ask(pid, network, address, nil); err == nil {
			return answer
		}
	}
	t.Errorf("%s %s does not answer: %v", network, address, err)
	return ""
}

// wantSilence proves that an address gives no answer.
func wantSilence(t *testing.T, pid int, network, address string, local net.Addr) {
	t.Helper()
	if answer, err := ask(pid, network, address, local); err == nil {
		t.Errorf("%s %s answered %q", network, address, answer)
	}
}
