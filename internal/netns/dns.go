package netns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	resolvConf   = "/etc/resolv.conf"
	queryTimeout = 5 * time.Second
	// maxQueries bounds queries under way; more are refused, so that sandboxes
	// cannot make the server hold memory or sockets without limit. maxPerSandbox
	// is what one of them may take of it.
	maxQueries    = 512
	maxPerSandbox = 64
	// What a TCP connection may wait with its first query and with a later one.
	readTimeout = 2 * time.Second
	idleTimeout = 5 * time.Second
)

// forwarder answers the sandboxes' name queries by asking the host's name
// servers, which the sandboxes cannot reach themselves.
type forwarder struct {
	port      uint16
	upstreams []string
	logger    *slog.Logger
	servers   []*dns.Server
	wg        sync.WaitGroup

	mu      sync.Mutex
	total   int
	queries map[netip.Addr]int // under way, by sandbox
}

// startForwarder listens on the gateway's address; the table leads port 53
// there. The address need not exist yet. The port is the one an earlier server
// had if it is free, else of the kernel's choice.
func startForwarder(o Options) (*forwarder, error) {
	f := &forwarder{upstreams: o.Upstreams, logger: o.Logger, queries: map[netip.Addr]int{}}
	pc, ln, err := listenNames(storedPort(o.StateFile))
	if err != nil {
		return nil, err
	}
	f.port = portOf(pc)
	if err := storePort(o.StateFile, f.port); err != nil {
		return nil, errors.Join(fmt.Errorf("remember port of name server: %w", err), pc.Close(), ln.Close())
	}
	f.serve(&dns.Server{PacketConn: pc, Handler: f, UDPSize: dns.DefaultMsgSize})
	f.serve(&dns.Server{
		Listener: limited(ln), Handler: f, MaxTCPQueries: 64, ReadTimeout: readTimeout,
		IdleTimeout: func() time.Duration { return idleTimeout },
	})
	return f, nil
}

// listenNames tries the wanted port, then ones the kernel chooses until one is
// free for both protocols.
func listenNames(wanted uint16) (net.PacketConn, net.Listener, error) {
	var last error
	for range 16 {
		pc, ln, err := listenBoth(wanted)
		if err == nil {
			return pc, ln, nil
		}
		wanted, last = 0, err
	}
	return nil, nil, fmt.Errorf("listen for name queries: %w", last)
}

func listenBoth(port uint16) (net.PacketConn, net.Listener, error) {
	lc := net.ListenConfig{Control: freeBind}
	pc, err := lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(GatewayAddr, port).String())
	if err != nil {
		return nil, nil, err
	}
	ln, err := lc.Listen(context.Background(), "tcp4", netip.AddrPortFrom(GatewayAddr, portOf(pc)).String())
	if err != nil {
		return nil, nil, errors.Join(err, pc.Close())
	}
	return pc, ln, nil
}

func portOf(pc net.PacketConn) uint16 { return pc.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

func freeBind(_, _ string, c syscall.RawConn) error {
	var err error
	ctl := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
	return errors.Join(ctl, err)
}

func (f *forwarder) serve(s *dns.Server) {
	f.servers = append(f.servers, s)
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	f.wg.Go(func() {
		if err := s.ActivateAndServe(); err != nil {
			f.logger.Error("name server ended", "error", err)
		}
	})
	<-started
}

func (f *forwarder) stop() error {
	var all error
	for _, s := range f.servers {
		all = errors.Join(all, s.Shutdown())
	}
	f.wg.Wait()
	return all
}

// ServeDNS forwards one query. Only sandboxes are served: a neighbour on the
// host's network could otherwise reach the gateway's address too.
func (f *forwarder) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil || !OuterNet.Contains(from.Addr()) {
		return
	}
	if !f.begin(from.Addr()) {
		f.fail(w, q, dns.RcodeRefused)
		return
	}
	defer f.end(from.Addr())
	answer := f.ask(q, w.LocalAddr().Network())
	if answer == nil {
		f.fail(w, q, dns.RcodeServerFailure)
		return
	}
	if w.LocalAddr().Network() == "udp" {
		answer.Truncate(udpSize(q))
	}
	_ = w.WriteMsg(answer) // the asker has gone: nobody to tell
}

// begin counts a query, unless there are too many.
func (f *forwarder) begin(sandbox netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.total == maxQueries || f.queries[sandbox] == maxPerSandbox {
		return false
	}
	f.total++
	f.queries[sandbox]++
	return true
}

func (f *forwarder) end(sandbox netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.total--
	if f.queries[sandbox]--; f.queries[sandbox] == 0 {
		delete(f.queries, sandbox)
	}
}

func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return max(int(opt.UDPSize()), dns.MinMsgSize)
	}
	return dns.MinMsgSize
}

// ask tries each upstream in turn.
func (f *forwarder) ask(q *dns.Msg, network string) *dns.Msg {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	client := dns.Client{Net: network, UDPSize: dns.DefaultMsgSize, Timeout: queryTimeout / 2}
	for _, up := range f.servers4() {
		answer, _, err := client.ExchangeContext(ctx, q, up)
		if err == nil {
			return answer
		}
		f.logger.Debug("name server did not answer", "upstream", up, "error", err)
	}
	return nil
}

// servers4 returns the configured upstreams, or the host's. The file is read at
// each query: it changes when a laptop changes networks.
func (f *forwarder) servers4() []string {
	if len(f.upstreams) > 0 {
		return f.upstreams
	}
	conf, err := dns.ClientConfigFromFile(resolvConf)
	if err != nil {
		f.logger.Warn("cannot read the host's name servers", "error", err)
		return nil
	}
	out := make([]string, 0, len(conf.Servers))
	for _, s := range conf.Servers {
		out = append(out, net.JoinHostPort(s, conf.Port))
	}
	return out
}

func (f *forwarder) fail(w dns.ResponseWriter, q *dns.Msg, rcode int) {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	_ = w.WriteMsg(m)
}
