package certs

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// leafLife is what public authorities give, so that clients with opinions
	// about it are content.
	leafLife = 90 * 24 * time.Hour
	// leafSpare is how long before its end a leaf is replaced.
	leafSpare = 30 * 24 * time.Hour
	// maxLeaves bounds the certificates kept, about 1 KB each. Names are the
	// client's to choose: the least recently used go.
	maxLeaves = 1024
)

// leaves keeps the certificates a CA has issued, all with one key that exists
// in memory only.
type leaves struct {
	key *ecdsa.PrivateKey

	mu     sync.Mutex
	recent list.List // of *leaf, the most recently used first
	byName map[string]*list.Element
}

type leaf struct {
	name     string
	cert     *tls.Certificate
	from, to time.Time
}

func (l *leaves) init() (err error) {
	l.byName = map[string]*list.Element{}
	l.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return err
}

// GetCertificate is for tls.Config: it issues a certificate for the very name
// the client asks for, since clients accept no wildcard directly below
// localhost, or for addresses if it names none. It returns nil for names that
// are not the server's.
func (c *CA) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		return c.forAddress(hello.Conn)
	}
	name := clean(hello.ServerName)
	if !c.opts.Names.Serve(name) {
		return nil, nil
	}
	return c.leaf(name, func(t *x509.Certificate) { t.DNSNames = []string{name} })
}

// forAddress issues a certificate for clients that connect to an address; which
// one, the connection knows.
func (c *CA) forAddress(conn net.Conn) (*tls.Certificate, error) {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	var to netip.Addr
	if conn != nil {
		if ap, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
			to = ap.Addr().Unmap()
		}
	}
	if c.opts.Names.reach(to) && !slices.Contains(addrs, to) {
		addrs = append(addrs, to)
	}
	return c.leaf(to.String(), func(t *x509.Certificate) {
		t.DNSNames = []string{local}
		for _, a := range addrs {
			t.IPAddresses = append(t.IPAddresses, a.AsSlice())
		}
	})
}

// leaf returns the certificate kept under a name, or issues one.
func (c *CA) leaf(name string, fill func(*x509.Certificate)) (*tls.Certificate, error) {
	l := &c.leaves
	l.mu.Lock()
	defer l.mu.Unlock()
	now := c.opts.Now()
	if e := l.byName[name]; e != nil {
		if kept, _ := e.Value.(*leaf); now.After(kept.from) && now.Before(kept.to.Add(-leafSpare)) {
			l.recent.MoveToFront(e)
			return kept.cert, nil
		}
		l.drop(e)
	}
	made, err := c.issue(name, now, fill)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate for %s: %w", name, err)
	}
	l.byName[name] = l.recent.PushFront(made)
	if l.recent.Len() > maxLeaves {
		l.drop(l.recent.Back())
	}
	return made.cert, nil
}

func (l *leaves) drop(e *list.Element) {
	gone, _ := l.recent.Remove(e).(*leaf)
	delete(l.byName, gone.name)
}

func (c *CA) issue(name string, now time.Time, fill func(*x509.Certificate)) (*leaf, error) {
	serial, err := serial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Sandlot"}},
		NotBefore:    now.Add(-backdate), NotAfter: now.Add(leafLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	fill(t)
	der, err := x509.CreateCertificate(rand.Reader, t, c.root, &c.leaves.key.PublicKey, c.key)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: c.leaves.key}
	return &leaf{name: name, cert: cert, from: t.NotBefore, to: t.NotAfter}, nil
}
