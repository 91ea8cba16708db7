// Package nameserver answers where the server's own names are, for clients whose
// resolver does not know that names below localhost mean this machine, or whose
// domain has no entry anywhere. It refuses every other question: it is no
// resolver, least of all an open one. It owns its sockets. The daemon uses it.
package nameserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// ttl is short: the machine's address may change, and asking is cheap.
	ttl = 10
	// maxTCP bounds the connections; more wait in the kernel.
	maxTCP = 64
	// idle is how long a connection may be silent.
	idle = 5 * time.Second
	// maxQuestions bounds those under way that came by datagram. More are
	// dropped, and asked again by their clients.
	maxQuestions = 256
)

// Options say what is answered.
type Options struct {
	// Addr is where to listen, host:port, for datagrams and connections.
	Addr string
	// Domains are the names that are answered, and all names below them. In
	// lower case, without a final dot.
	Domains []string
	// Answer are the addresses they have.
	Answer []netip.Addr
	// Loopback are the addresses of localhost and all names below it.
	Loopback []netip.Addr
	// Logger is told about failures.
	Logger *slog.Logger
}

// Server answers until Close.
type Server struct {
	opts    Options
	udp     *dns.Server
	tcp     *dns.Server
	addr    string
	pending chan struct{}
	wg      sync.WaitGroup
}

// Open starts answering.
func Open(ctx context.Context, o Options) (*Server, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", o.Addr)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "cannot answer names at %s (dns.addr)", o.Addr)
	}
	conn, err := lc.ListenPacket(ctx, "udp", ln.Addr().String())
	if err != nil {
		return nil, errors.Join(errs.Wrap(err, errs.Invalid, "cannot answer names at %s (dns.addr)", o.Addr), ln.Close())
	}
	s := &Server{opts: o, addr: ln.Addr().String(), pending: make(chan struct{}, maxQuestions)}
	s.tcp = &dns.Server{
		Listener: &limited{Listener: ln, free: make(chan struct{}, maxTCP), done: make(chan struct{})}, Handler: dns.HandlerFunc(s.answer),
		ReadTimeout: idle, WriteTimeout: idle, IdleTimeout: func() time.Duration { return idle }, MaxTCPQueries: 128,
	}
	s.udp = &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(s.bounded), UDPSize: dns.MinMsgSize}
	started := make(chan struct{}, 2)
	for _, srv := range []*dns.Server{s.tcp, s.udp} {
		srv.NotifyStartedFunc = func() { started <- struct{}{} }
		s.wg.Go(func() {
			if err := srv.ActivateAndServe(); err != nil {
				o.Logger.Error("the name server stopped", "error", err)
				started <- struct{}{}
			}
		})
	}
	<-started
	<-started
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.addr }

// Close stops answering. It waits for what is under way.
func (s *Server) Close() error {
	err := errors.Join(s.udp.Shutdown(), s.tcp.Shutdown())
	s.wg.Wait()
	if err != nil {
		return fmt.Errorf("stop the name server: %w", err)
	}
	return nil
}

// bounded drops questions beyond the bound.
func (s *Server) bounded(w dns.ResponseWriter, q *dns.Msg) {
	select {
	case s.pending <- struct{}{}:
		s.answer(w, q)
		<-s.pending
	default:
	}
}

func (s *Server) answer(w dns.ResponseWriter, q *dns.Msg) {
	r := s.reply(q)
	if r == nil {
		return
	}
	if err := w.WriteMsg(r); err != nil {
		s.opts.Logger.Debug("a name's answer was not sent", "error", err)
	}
}

// reply answers a question; nil for what is none.
func (s *Server) reply(q *dns.Msg) *dns.Msg {
	if q.Response {
		return nil
	}
	r := new(dns.Msg)
	r.SetReply(q)
	r.RecursionAvailable = false
	if q.Opcode != dns.OpcodeQuery {
		r.Rcode = dns.RcodeNotImplemented
		return r
	}
	if len(q.Question) != 1 {
		r.Rcode = dns.RcodeFormatError
		return r
	}
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	domain, ok := s.domain(name)
	if !ok || question.Qclass != dns.ClassINET {
		r.Rcode = dns.RcodeRefused
		return r
	}
	r.Authoritative = true
	for _, addr := range s.addresses(domain) {
		if rr := record(question, addr); rr != nil {
			r.Answer = append(r.Answer, rr)
		}
	}
	if len(r.Answer) == 0 { // the name exists, but has nothing of this kind
		r.Ns = []dns.RR{soa(domain)}
	}
	return r
}

const localhost = "localhost"

// domain returns which of the domains a name is of.
func (s *Server) domain(name string) (string, bool) {
	for _, d := range append([]string{localhost}, s.opts.Domains...) {
		if name == d || strings.HasSuffix(name, "."+d) {
			return d, true
		}
	}
	return "", false
}

func (s *Server) addresses(domain string) []netip.Addr {
	if domain == localhost {
		return s.opts.Loopback
	}
	return s.opts.Answer
}

func record(q dns.Question, a netip.Addr) dns.RR {
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	switch {
	case q.Qtype == dns.TypeA && a.Is4():
		return &dns.A{Hdr: head, A: a.AsSlice()}
	case q.Qtype == dns.TypeAAAA && a.Is6():
		return &dns.AAAA{Hdr: head, AAAA: a.AsSlice()}
	}
	return nil
}

// soa lets resolvers remember for a while that there is nothing (RFC 2308).
func soa(domain string) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: dns.Fqdn(domain), Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  dns.Fqdn(domain), Mbox: "hostmaster." + dns.Fqdn(domain), Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}
