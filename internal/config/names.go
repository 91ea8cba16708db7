package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
)

// TLS says where certificates for the domain come from: two files, or an ACME
// authority; else from the local CA, as those for localhost always do.
type TLS struct {
	// Cert and Key are files in PEM. They are read again when they change.
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// ACME gets certificates from an authority, and agrees to its terms.
	ACME bool `toml:"acme"`
	// ACMEEmail is told to the authority.
	ACMEEmail string `toml:"acme_email"`
	// ACMECA is the authority's directory; empty means Let's Encrypt.
	ACMECA string `toml:"acme_ca"`
	// ACMERoot is a file of certificates the authority's own is checked with;
	// empty means the system's.
	ACMERoot string `toml:"acme_root"`
}

// DNS is the server's own answering of names.
type DNS struct {
	// Addr is where it listens, host:port; empty means nowhere.
	Addr string `toml:"addr"`
	// Answer are the addresses the domain has; empty means those of the listener.
	Answer []string `toml:"answer"`
}

var errNeedsDomain = errors.New("is for a domain; set that too")

// checkNames returns the mistakes in TLS and DNS.
func (c *Config) checkNames() []error {
	var all []error
	add := func(key string, wrong bool, err error) {
		if wrong {
			all = append(all, keyed(key, err))
		}
	}
	t, files := c.TLS, c.TLS.Cert != "" || c.TLS.Key != ""
	domain := c.DomainName() != Localhost
	add("tls.key", t.Cert != "" && t.Key == "", errors.New("is missing beside tls.cert"))
	add("tls.cert", t.Cert == "" && t.Key != "", errors.New("is missing beside tls.key"))
	add("tls.cert", files && !domain, errNeedsDomain)
	add("tls.acme", t.ACME && !domain, errNeedsDomain)
	add("tls.acme", t.ACME && files, errors.New("and tls.cert exclude each other"))
	add("tls.acme", !t.ACME && (t.ACMEEmail != "" || t.ACMECA != "" || t.ACMERoot != ""), errors.New("is false: acme_email, acme_ca and acme_root are of no use"))
	for key, path := range map[string]string{"tls.cert": t.Cert, "tls.key": t.Key, "tls.acme_root": t.ACMERoot} {
		add(key, path != "" && !filepath.IsAbs(path), fmt.Errorf("%q is not an absolute path", path))
	}
	if t.ACMECA != "" {
		u, err := url.Parse(t.ACMECA)
		add("tls.acme_ca", err != nil || u.Scheme != "https" || u.Host == "", fmt.Errorf("%q is not an https:// URL", t.ACMECA))
	}
	if c.DNS.Addr != "" {
		all = append(all, keyed("dns.addr", checkAddr(c.DNS.Addr)))
	}
	add("dns.answer", len(c.DNS.Answer) > 0 && c.DNS.Addr == "", errors.New("is of no use without dns.addr"))
	for _, a := range c.DNS.Answer {
		_, err := netip.ParseAddr(a)
		add("dns.answer", err != nil, fmt.Errorf("%q is not an IP address", a))
	}
	return all
}
