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

// startForwarder listens on the gateway's address at a port of the kernel's
// choice; the table leads port 53 there. The address need not exist yet.
func startForwarder(upstreams []string, logger *slog.Logger) (*forwarder, error) {
	f := &forwarder{upstreams: upstreams, logger: logger, queries: map[netip.Addr]int{}}
	lc := net.ListenConfig{Control: freeBind}
	for range 16 { // until a port is free for both
		pc, err := lc.ListenPacket(context.Background(), "udp4", net.JoinHostPort(GatewayAddr.String(), "0"))
		if err != nil {
			return nil, fmt.Errorf("listen for name queries: %w", err)
		}
		port := pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		ln, err := lc.Listen(context.Background(), "tcp4", netip.AddrPortFrom(GatewayAddr, port).String())
		if err != nil {
			pc.Close()
			continue
		}
		f.port = port
		f.serve(&dns.Server{PacketConn: pc, Handler: f, UDPSize: dns.DefaultMsgSize})
		f.serve(&dns.Server{Listener: ln, Handler: f, MaxTCPQueries: 64})
		return f, nil
	}
	return nil, errors.New("listen for name queries: no port is free for both UDP and TCP")
}

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
