// Package acme gets certificates for a domain from an ACME authority, such as
// Let's Encrypt, name by name when clients first ask for them. The authority
// checks over TLS-ALPN-01, on the server's own port. It owns the directory in
// which accounts and certificates are kept. The daemon uses it.
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Protocol is what the authority negotiates to check a name (RFC 8737); the
// server's TLS must offer it.
const Protocol = "acme-tls/1"

// Options say which authority to ask, and for what.
type Options struct {
	// Dir is where accounts and certificates are kept.
	Dir string
	// Domain is the domain, in lower case.
	Domain string
	// Email is told to the authority; may be empty.
	Email string
	// Directory is the authority's address; empty means Let's Encrypt.
	Directory string
	// RootFile holds the certificates the authority's own is checked with; empty
	// means the system's.
	RootFile string
	// Listen is the server's listener, where the authority's checks arrive.
	Listen net.Addr
	// Live returns the sandbox that a label below the domain means, and whether
	// it means one that runs.
	Live func(label string) (id string, ok bool)
	// Logger is told what is asked for and what goes wrong.
	Logger *slog.Logger
}

// Source is where certificates for the domain come from. It is safe for
// concurrent use. End it with Close.
type Source struct {
	asked  *certmagic.Config // for names somebody opens
	own    *certmagic.Config // for the server's, which are got without being asked for
	cache  *certmagic.Cache
	domain string
	live   func(string) (string, bool)
	budget budget
}

// Open returns a Source and starts getting the certificates of the domain
// itself and of its REST interface; what fails there is told to the logger and
// tried again.
func Open(ctx context.Context, o Options) (*Source, error) {
	roots, err := readRoots(o.RootFile)
	if err != nil {
		return nil, err
	}
	listen, err := netip.ParseAddrPort(o.Listen.String())
	if err != nil {
		return nil, err
	}
	s := &Source{domain: o.Domain, live: o.Live, budget: newBudget()}
	logger := zap.New(core{handler: o.Logger.Handler()})
	s.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(c certmagic.Certificate) (*certmagic.Config, error) { return s.configFor(c.Names), nil },
		Capacity:         maxCached, Logger: logger,
	})
	config := func(onDemand *certmagic.OnDemandConfig) *certmagic.Config {
		c := certmagic.New(s.cache, certmagic.Config{
			Storage:  &certmagic.FileStorage{Path: o.Dir},
			OnDemand: onDemand,
			// Authorities give up OCSP; asking them for staples is only traffic.
			OCSP:   certmagic.OCSPConfig{DisableStapling: true},
			Logger: logger,
		})
		c.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(c, certmagic.ACMEIssuer{
			CA: directory(o.Directory), Email: o.Email, Agreed: true, TrustedRoots: roots, DisableHTTPChallenge: true,
			ListenHost: listen.Addr().String(), AltTLSALPNPort: int(listen.Port()), Logger: logger,
		})}
		return c
	}
	// Where certificates are got on demand, certmagic gets none before.
	s.asked, s.own = config(&certmagic.OnDemandConfig{DecisionFunc: s.decide}), config(nil)
	if err := s.own.ManageAsync(ctx, s.names()); err != nil {
		s.Close()
		return nil, fmt.Errorf("get certificates for %s: %w", o.Domain, err)
	}
	return s, nil
}

// names are the server's own.
func (s *Source) names() []string { return []string{s.domain, "api." + s.domain} }

// configFor returns how a certificate is renewed.
func (s *Source) configFor(names []string) *certmagic.Config {
	for _, own := range s.names() {
		if slices.Contains(names, own) {
			return s.own
		}
	}
	return s.asked
}

// maxCached bounds the certificates in memory. The least useful go to disk.
const maxCached = 1024

func directory(address string) string {
	if address == "" {
		return certmagic.LetsEncryptProductionCA
	}
	return address
}

func readRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "cannot read tls.acme_root")
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errs.New(errs.Invalid, "tls.acme_root: %s holds no certificate", filepath.Base(path))
	}
	return pool, nil
}

// Close ends what goes on in the background. Certificates that are being got
// are given up.
func (s *Source) Close() { s.cache.Stop() }

// GetCertificate is for tls.Config. It blocks while a new certificate is got,
// and fails for names that are nobody's.
func (s *Source) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.asked.GetCertificate(hello)
}

var (
	errNobody = errors.New("the name is neither the server's nor a sandbox's")
	errBudget = errors.New("too many new names lately")
)

// decide says whether a certificate may be got for a name: authorities count
// them, and anybody can ask us for any name. One that is kept already costs
// nothing.
func (s *Source) decide(ctx context.Context, name string) error {
	name = strings.ToLower(name)
	if slices.Contains(s.names(), name) {
		return nil
	}
	label, below := strings.CutSuffix(name, "."+s.domain)
	if !below || strings.Contains(label, ".") {
		return errNobody
	}
	id, ok := s.live(label)
	switch {
	case !ok:
		return errNobody
	case s.kept(ctx, name) || s.budget.spend(id, name):
		return nil
	}
	return errBudget
}

// kept reports whether there is a certificate for a name on the disk.
func (s *Source) kept(ctx context.Context, name string) bool {
	return slices.ContainsFunc(s.asked.Issuers, func(i certmagic.Issuer) bool {
		return s.asked.Storage.Exists(ctx, certmagic.StorageKeys.SiteCert(i.IssuerKey(), name))
	})
}
