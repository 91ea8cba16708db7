package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// The files of a CA's directory. Everybody may read all but the key.
const (
	// RootFile is the CA's certificate, for clients to trust.
	RootFile = "root.pem"
	// BundleFile holds the host's trusted certificates and the CA's, for
	// programs that trust one file only.
	BundleFile = "bundle.pem"
	keyFile    = "key.pem"
)

const (
	// rootLife is long: replacing a root is work for people.
	rootLife = 10 * 365 * 24 * time.Hour
	// rootSpare is how long before its end a root is replaced; no leaf lives longer.
	rootSpare = leafLife
	// backdate forgives clients whose clock is behind.
	backdate = time.Hour
)

// Options say which CA to open.
type Options struct {
	// Dir is where it is kept. It is made if it is missing.
	Dir string
	// Names are what its certificates are for.
	Names Names
	// System is a file of certificates to put into the bundle; empty means none.
	System string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger is told when a root was made or replaced.
	Logger *slog.Logger
}

// CA is a certificate authority for the names of one server and nothing else:
// its own certificate says so (name constraints), so that its key, stolen, is
// worth nothing for other names. It is safe for concurrent use.
type CA struct {
	opts Options
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	leaves
}

// Open opens the CA in a directory, making it if there is none. Files that
// cannot be used are an error and stay as they are. A root that does not cover
// the names, or soon expires, is replaced by one with the same key.
func Open(o Options) (*CA, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &CA{opts: o}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make CA directory: %w", err)
	}
	if err := c.load(); err != nil {
		return nil, errs.New(errs.Invalid, "the local CA in %s cannot be used: %v", o.Dir, err).
			WithHint("put its files back from a backup; or move that directory away: the next start makes a new CA, which clients must be told to trust with: sandlot trust")
	}
	if err := c.ensureRoot(); err != nil {
		return nil, err
	}
	if err := c.leaves.init(); err != nil {
		return nil, err
	}
	return c, c.writeBundle()
}

// RootPath is where the CA's certificate is.
func (c *CA) RootPath() string { return filepath.Join(c.opts.Dir, RootFile) }

// load reads what is there. A key without a root is the trace of a crash in the
// first start, a root without its key is of no use.
func (c *CA) load() (err error) {
	if c.key, err = readKey(filepath.Join(c.opts.Dir, keyFile)); err != nil {
		return err
	}
	if c.root, err = ReadRoot(c.opts.Dir); err != nil {
		return err
	}
	switch {
	case c.root == nil:
		return nil
	case c.key == nil:
		return fmt.Errorf("%s is missing", keyFile)
	case !c.key.PublicKey.Equal(c.root.PublicKey):
		return fmt.Errorf("%s and %s do not belong together", keyFile, RootFile)
	}
	return nil
}

// ReadRoot reads the CA's certificate in a directory. It returns nil if there
// is none.
func ReadRoot(dir string) (*x509.Certificate, error) {
	data, err := os.ReadFile(filepath.Join(dir, RootFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no certificate", RootFile)
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err == nil {
		err = root.CheckSignatureFrom(root)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", RootFile, err)
	}
	return root, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s holds no private key", filepath.Base(path))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a key of another kind", filepath.Base(path))
	}
	return ec, nil
}

// ensureRoot makes key and root, or a new root where the old one does not do.
func (c *CA) ensureRoot() error {
	made := c.root == nil
	if !made && c.covers() && c.opts.Now().Before(c.root.NotAfter.Add(-rootSpare)) {
		return nil
	}
	if c.key == nil {
		if err := c.makeKey(); err != nil {
			return err
		}
	}
	if err := c.makeRoot(); err != nil {
		return err
	}
	if made {
		c.opts.Logger.Info("made a local CA; to have programs of this machine trust it: sandlot trust", "root", c.RootPath())
		return nil
	}
	c.opts.Logger.Warn("replaced the local CA's certificate, since the old one does not cover the configured names or soon expires; "+
		"where it was trusted, sandlot trust must be run again", "root", c.RootPath(), "names", c.root.PermittedDNSDomains)
	return nil
}

// covers reports whether the root's constraints allow all names.
func (c *CA) covers() bool {
	n := c.opts.Names
	return slices.ContainsFunc(c.root.PermittedDNSDomains, func(d string) bool { return n.Domain == "" || below(n.Domain, d) }) &&
		(!n.Addr.IsValid() || slices.ContainsFunc(c.root.PermittedIPRanges, func(r *net.IPNet) bool { return r.Contains(n.Addr.AsSlice()) }))
}

func (c *CA) makeKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := atomicfile.Write(filepath.Join(c.opts.Dir, keyFile), text, 0o600); err != nil {
		return fmt.Errorf("write the CA's key: %w", err)
	}
	c.key = key
	return nil
}

func (c *CA) makeRoot() error {
	template, err := c.rootTemplate()
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &c.key.PublicKey, c.key)
	if err != nil {
		return fmt.Errorf("sign the CA's certificate: %w", err)
	}
	if c.root, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	if err := atomicfile.Write(c.RootPath(), encode(der), 0o644); err != nil {
		return fmt.Errorf("write the CA's certificate: %w", err)
	}
	return nil
}

func (c *CA) rootTemplate() (*x509.Certificate, error) {
	serial, err := serial()
	if err != nil {
		return nil, err
	}
	id, err := fingerprint(&c.key.PublicKey)
	if err != nil {
		return nil, err
	}
	now := c.opts.Now()
	t := &x509.Certificate{
		SerialNumber: serial,
		// Several servers' CAs may be trusted beside each other: tell them apart.
		Subject:   pkix.Name{Organization: []string{"Sandlot"}, CommonName: "Sandlot local CA " + id},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(rootLife),
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: []string{local},
		PermittedIPRanges: []*net.IPNet{
			{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)},
			{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)},
		},
		// Names of other kinds are constrained apart, or they would be free.
		PermittedEmailAddresses: []string{local}, PermittedURIDomains: []string{local},
	}
	c.permit(t)
	return t, nil
}

// permit adds to a template what the names need, and what the old root allowed.
func (c *CA) permit(t *x509.Certificate) {
	if c.root != nil {
		t.PermittedDNSDomains = append(t.PermittedDNSDomains, c.root.PermittedDNSDomains...)
		t.PermittedIPRanges = append(t.PermittedIPRanges, c.root.PermittedIPRanges...)
	}
	if d := c.opts.Names.Domain; d != "" {
		t.PermittedDNSDomains = append(t.PermittedDNSDomains, d)
	}
	if a := c.opts.Names.Addr; a.IsValid() {
		t.PermittedIPRanges = append(t.PermittedIPRanges, single(a))
	}
	slices.Sort(t.PermittedDNSDomains)
	t.PermittedDNSDomains = slices.Compact(t.PermittedDNSDomains)
	slices.SortFunc(t.PermittedIPRanges, func(a, b *net.IPNet) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) })
	t.PermittedIPRanges = slices.CompactFunc(t.PermittedIPRanges, func(a, b *net.IPNet) bool { return a.String() == b.String() })
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) }

// fingerprint is a short name of a key.
func fingerprint(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:4]), nil
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
