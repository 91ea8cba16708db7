package daemon

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/sandlot-dev/sandlot/internal/certs"
	"github.com/sandlot-dev/sandlot/internal/certs/acme"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/edge"
	"github.com/sandlot-dev/sandlot/internal/listener"
	"github.com/sandlot-dev/sandlot/internal/nameserver"
	"github.com/sandlot-dev/sandlot/internal/trust"
)

// caDir is where the local CA lies in a data directory.
var caDir = filepath.Dir(config.RootCertificate)

// acmeDir is where what an ACME authority gave lies in a data directory.
const acmeDir = "acme"

// maxSilent is how many connections may be open at most whose client has not
// said anything yet.
const maxSilent = 4096

// names are those the server is reached by.
func names(cfg config.Config) certs.Names {
	n := certs.Names{}
	if d := cfg.DomainName(); d != config.Localhost {
		n.Domain = d
	}
	if host, _, err := net.SplitHostPort(cfg.Addr); err == nil {
		if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() && !a.IsLoopback() {
			n.Addr = a.Unmap().WithZone("")
		}
	}
	return n
}

// certificates are where TLS certificates come from.
type certificates interface {
	GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
}

// openCerts opens the local CA, and makes it at the first start; and the files
// of the domain's own certificate, if there are any.
func (s *system) openCerts(context.Context) (err error) {
	n := names(s.cfg)
	if s.cfg.TLS.Cert != "" {
		if s.own, err = certs.OpenFiles(s.cfg.TLS.Cert, s.cfg.TLS.Key, n.Domain, s.logger); err != nil {
			return err
		}
	}
	if s.own != nil || s.cfg.TLS.ACME {
		n.Domain = "" // not the local CA's affair
	}
	s.ca, err = certs.Open(certs.Options{Dir: s.path(caDir), Names: n, System: trust.Host{}.Bundle(), Logger: s.logger})
	return err
}

// startACME begins to get certificates, once the listener accepts what checks them.
func (s *system) startACME(ctx context.Context, ln net.Listener) error {
	if !s.cfg.TLS.ACME {
		return nil
	}
	t := s.cfg.TLS
	source, err := acme.Open(ctx, acme.Options{
		Dir: s.path(acmeDir), Domain: s.cfg.DomainName(), Email: t.ACMEEmail, Directory: t.ACMECA, RootFile: t.ACMERoot,
		Listen: ln.Addr(), Live: s.live, Logger: s.logger,
	})
	if err != nil {
		return err
	}
	s.own = source
	s.onClose(func(context.Context) error { source.Close(); return nil })
	return nil
}

// live returns the sandbox that a label below the domain means, and whether it
// means one that runs.
func (s *system) live(label string) (string, bool) {
	id, ok := edge.SandboxOf(label)
	if !ok {
		return "", false
	}
	_, err := s.control.Get(id)
	return string(id), err == nil
}

// tlsConfig is for whoever speaks TLS on the one port: names of a domain that
// has certificates of its own get those, all others the local CA's.
func (s *system) tlsConfig() *tls.Config {
	n := names(s.cfg)
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if s.own != nil && n.Under(hello.ServerName) {
				return s.own.GetCertificate(hello)
			}
			return s.ca.GetCertificate(hello)
		},
	}
	if s.cfg.TLS.ACME {
		cfg.NextProtos = append(cfg.NextProtos, acme.Protocol)
	}
	return cfg
}

// startDNS begins to answer names, if it is to.
func (s *system) startDNS(ctx context.Context) error {
	if s.cfg.DNS.Addr == "" {
		return nil
	}
	o := nameserver.Options{Addr: s.cfg.DNS.Addr, Loopback: loopback(s.cfg.Addr), Logger: s.logger}
	n := names(s.cfg)
	if n.Domain != "" {
		o.Domains = []string{n.Domain}
	}
	for _, a := range s.cfg.DNS.Answer {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return err // validated
		}
		o.Answer = append(o.Answer, addr.Unmap())
	}
	if len(o.Answer) == 0 {
		o.Answer = o.Loopback
		if n.Addr.IsValid() {
			o.Answer = []netip.Addr{n.Addr}
		}
	}
	server, err := nameserver.Open(ctx, o)
	if err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return server.Close() })
	s.logger.Info("answering names", "addr", server.Addr(), "domains", append([]string{config.Localhost}, o.Domains...))
	return nil
}

// loopback returns the loopback addresses at which a server that listens on
// addr is reached.
func loopback(addr string) []netip.Addr {
	four, six := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil // validated
	}
	switch a, err := netip.ParseAddr(host); {
	case err == nil && a.IsLoopback():
		return []netip.Addr{a.Unmap()}
	case err == nil && a == netip.IPv6Unspecified(), host == "":
		return []netip.Addr{four, six}
	}
	return []netip.Addr{four}
}

// share puts plain HTTP and TLS on one port.
func share(ln net.Listener, cfg *tls.Config) net.Listener {
	return listener.New(ln, listener.Options{TLS: cfg, Patience: headerTimeout, Silent: min(maxSilent, descriptorsOver(silentShare))})
}

// baseURL is where programs of this machine reach a listener: a server that
// listens on all addresses is told by one that can be connected to.
func baseURL(addr net.Addr) string {
	text := addr.String()
	if ap, err := netip.ParseAddrPort(text); err == nil && ap.Addr().IsUnspecified() {
		text = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port()).String()
	}
	return "http://" + text
}

// port is a listener's.
func port(ln net.Listener) int {
	ap, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		return 0 // a TCP listener's address is one
	}
	return int(ap.Port())
}
