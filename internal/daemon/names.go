package daemon

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/sandlot-dev/sandlot/internal/certs"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/listener"
	"github.com/sandlot-dev/sandlot/internal/trust"
)

// caDir is where the local CA lies in a data directory.
var caDir = filepath.Dir(config.RootCertificate)

// maxSilent is how many connections may be open whose client has not said
// anything yet.
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

// openCerts opens the local CA, and makes it at the first start.
func (s *system) openCerts(context.Context) (err error) {
	s.ca, err = certs.Open(certs.Options{Dir: s.path(caDir), Names: names(s.cfg), System: trust.Host{}.Bundle(), Logger: s.logger})
	return err
}

// tlsConfig is for whoever speaks TLS on the one port.
func (s *system) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: s.ca.GetCertificate,
	}
}

// share puts plain HTTP and TLS on one port.
func share(ln net.Listener, cfg *tls.Config) net.Listener {
	return listener.New(ln, listener.Options{TLS: cfg, Patience: headerTimeout, Silent: maxSilent})
}

// port is a listener's.
func port(ln net.Listener) int {
	ap, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		return 0 // a TCP listener's address is one
	}
	return int(ap.Port())
}
