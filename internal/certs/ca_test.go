package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/certs"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func open(t testing.TB, o certs.Options) *certs.CA {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ca, err := certs.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// conn is a connection that came in at an address.
type conn struct {
	net.Conn
	at string
}

func (c conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.at)) }

// leaf returns what the CA gives to a client that asks for a name, nil if nothing.
func leaf(t testing.TB, ca *certs.CA, name, at string) *x509.Certificate {
	t.Helper()
	cert, err := ca.GetCertificate(&tls.ClientHelloInfo{ServerName: name, Conn: conn{at: at}})
	if err != nil {
		t.Fatal(err)
	}
	if cert == nil {
		return nil
	}
	parsed, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func root(t testing.TB, dir string) *x509.Certificate {
	t.Helper()
	cert, err := certs.ReadRoot(dir)
	if err != nil || cert == nil {
		t.Fatalf("root: %v", err)
	}
	return cert
}

func verify(root, leaf *x509.Certificate, name string, now time.Time) error {
	pool := x509.NewCertPool()
	pool.AddCert(root)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: now})
	return err
}

func TestCertificatesForOwnNames(t *testing.T) {
	dir := t.TempDir()
	names := certs.Names{Domain: "sandlot.example", Addr: netip.MustParseAddr("10.1.2.3")}
	ca := open(t, certs.Options{Dir: dir, Names: names})
	for _, c := range []struct{ asks, at, valid string }{
		{"localhost", "127.0.0.1:443", "localhost"},
		{"api.localhost", "127.0.0.1:443", "api.localhost"},
		{"8000-iblyau6afrau2djukgeh.localhost", "127.0.0.1:443", "8000-iblyau6afrau2djukgeh.localhost"},
		{"8000-IBLYAU.LocalHost.", "127.0.0.1:443", "8000-iblyau.localhost"},
		{"a.b.localhost", "127.0.0.1:443", "a.b.localhost"},
		{"sandlot.example", "10.1.2.3:443", "sandlot.example"},
		{"api.sandlot.example", "10.1.2.3:443", "api.sandlot.example"},
		{"", "127.0.0.1:443", "127.0.0.1"},
		{"", "127.0.0.1:443", "localhost"},
		{"", "127.0.0.1:443", "::1"},
		{"", "127.7.7.7:443", "127.7.7.7"},
		{"", "[::1]:443", "::1"},
		{"", "[::ffff:127.0.0.9]:443", "127.0.0.9"},
		{"", "10.1.2.3:443", "10.1.2.3"},
	} {
		got := leaf(t, ca, c.asks, c.at)
		if got == nil {
			t.Errorf("no certificate for %q", c.asks)
			continue
		}
		if err := verify(root(t, dir), got, c.valid, time.Time{}); err != nil {
			t.Errorf("asked %q at %s: %v", c.asks, c.at, err)
		}
	}
}

func TestNoCertificatesForOtherNames(t *testing.T) {
	ca := open(t, certs.Options{Dir: t.TempDir(), Names: certs.Names{Domain: "sandlot.example"}})
	for _, name := range []string{
		"example.org", "example", "notlocalhost", "localhost.example.org", "othersandlot.example", ".localhost",
		"a..localhost", "*.localhost", "a b.localhost", "a\x00.localhost", "é.localhost", strings.Repeat("a", 64) + ".localhost",
		strings.Repeat("a.", 130) + "localhost",
	} {
		if got := leaf(t, ca, name, "127.0.0.1:443"); got != nil {
			t.Errorf("a certificate for %q: %v", name, got.DNSNames)
		}
	}
	if got := leaf(t, ca, "", "192.0.2.1:443"); len(got.IPAddresses) != 2 {
		t.Errorf("an address nobody configured is in the certificate: %v", got.IPAddresses)
	}
}

// TestStolenKey signs certificates for other names with the CA's key, as a
// thief would.
func TestStolenKey(t *testing.T) {
	dir := t.TempDir()
	open(t, certs.Options{Dir: dir})
	r := root(t, dir)
	if !r.PermittedDNSDomainsCritical || !r.IsCA || !r.MaxPathLenZero {
		t.Error("the root's constraints are not binding")
	}
	key := readKey(t, dir)
	for _, c := range []struct {
		name string
		fill func(*x509.Certificate)
		asks string
		ok   bool
	}{
		{"own name", func(c *x509.Certificate) { c.DNSNames = []string{"x.localhost"} }, "x.localhost", true},
		{"own address", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, "127.0.0.1", true},
		{"other name", func(c *x509.Certificate) { c.DNSNames = []string{"bank.example"} }, "bank.example", false},
		{"both", func(c *x509.Certificate) { c.DNSNames = []string{"localhost", "bank.example"} }, "bank.example", false},
		{"other address", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }, "10.0.0.1", false},
		{"mail", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@bank.example"} }, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := verify(r, sign(t, r, key, c.fill), c.asks, time.Time{})
			if (err == nil) != c.ok {
				t.Errorf("verified: %v", err)
			}
		})
	}
}

func TestRestartKeepsTheCA(t *testing.T) {
	dir := t.TempDir()
	open(t, certs.Options{Dir: dir})
	before := files(t, dir)
	ca := open(t, certs.Options{Dir: dir})
	if diff := cmp.Diff(before, files(t, dir)); diff != "" {
		t.Errorf("files changed (-before +after):\n%s", diff)
	}
	if err := verify(root(t, dir), leaf(t, ca, "localhost", "127.0.0.1:1"), "localhost", time.Time{}); err != nil {
		t.Error(err)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	open(t, certs.Options{Dir: dir})
	for name, mode := range map[string]os.FileMode{"key.pem": 0o600, certs.RootFile: 0o644, certs.BundleFile: 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestBundleHoldsTheRoot(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	open(t, certs.Options{Dir: other})
	ca := open(t, certs.Options{Dir: dir, System: filepath.Join(other, certs.RootFile)})
	bundle, err := os.ReadFile(filepath.Join(dir, certs.BundleFile))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		t.Fatal("no certificate in the bundle")
	}
	if _, err := leaf(t, ca, "localhost", "127.0.0.1:1").Verify(x509.VerifyOptions{Roots: pool}); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(string(bundle), files(t, other)[certs.RootFile]) {
		t.Error("the system's certificates are not in the bundle")
	}
}

func TestBrokenFilesStay(t *testing.T) {
	other := t.TempDir()
	open(t, certs.Options{Dir: other})
	for name, spoil := range map[string]func(dir string) error{
		"key truncated":  func(dir string) error { return os.Truncate(filepath.Join(dir, "key.pem"), 100) },
		"key empty":      func(dir string) error { return os.Truncate(filepath.Join(dir, "key.pem"), 0) },
		"key gone":       func(dir string) error { return os.Remove(filepath.Join(dir, "key.pem")) },
		"root empty":     func(dir string) error { return os.Truncate(filepath.Join(dir, certs.RootFile), 0) },
		"root truncated": func(dir string) error { return os.Truncate(filepath.Join(dir, certs.RootFile), 300) },
		"root flipped":   func(dir string) error { return flip(filepath.Join(dir, certs.RootFile)) },
		"another's root": func(dir string) error { return copyFile(dir, other, certs.RootFile) },
		"another's key":  func(dir string) error { return copyFile(dir, other, "key.pem") },
		"key is the root": func(dir string) error {
			return os.Rename(filepath.Join(dir, certs.RootFile), filepath.Join(dir, "key.pem"))
		},
		"key a directory":  func(dir string) error { return asDirectory(filepath.Join(dir, "key.pem")) },
		"root a directory": func(dir string) error { return asDirectory(filepath.Join(dir, certs.RootFile)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, certs.Options{Dir: dir})
			if err := spoil(dir); err != nil {
				t.Fatal(err)
			}
			before := files(t, dir)
			_, err := certs.Open(certs.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
			if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v", err)
			}
			if diff := cmp.Diff(before, files(t, dir)); diff != "" {
				t.Errorf("files changed:\n%s", diff)
			}
		})
	}
}

// TestCrashInTheFirstStart leaves the key without its root.
func TestCrashInTheFirstStart(t *testing.T) {
	dir := t.TempDir()
	open(t, certs.Options{Dir: dir})
	key := files(t, dir)["key.pem"]
	if err := os.Remove(filepath.Join(dir, certs.RootFile)); err != nil {
		t.Fatal(err)
	}
	ca := open(t, certs.Options{Dir: dir})
	if files(t, dir)["key.pem"] != key {
		t.Error("the key changed")
	}
	if err := verify(root(t, dir), leaf(t, ca, "localhost", "127.0.0.1:1"), "localhost", time.Time{}); err != nil {
		t.Error(err)
	}
}

func TestNewDomainNewRoot(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	open(t, certs.Options{Dir: dir, Logger: logger, Names: certs.Names{Domain: "one.example"}})
	first := root(t, dir)
	log.Reset()
	both := certs.Names{Domain: "two.example", Addr: netip.MustParseAddr("fd00::1")}
	ca := open(t, certs.Options{Dir: dir, Logger: logger, Names: both})
	second := root(t, dir)
	if !bytes.Equal(first.RawSubjectPublicKeyInfo, second.RawSubjectPublicKeyInfo) {
		t.Error("another key")
	}
	if diff := cmp.Diff([]string{"localhost", "one.example", "two.example"}, second.PermittedDNSDomains); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(log.String(), "sandlot trust must be run again") {
		t.Errorf("the log says %q", log.String())
	}
	for _, name := range []string{"x.two.example", "localhost"} {
		if err := verify(second, leaf(t, ca, name, "[fd00::1]:1"), name, time.Time{}); err != nil {
			t.Error(err)
		}
	}
	if err := verify(second, leaf(t, ca, "", "[fd00::1]:1"), "fd00::1", time.Time{}); err != nil {
		t.Error(err)
	}
	// What the root allows already needs no new one.
	open(t, certs.Options{Dir: dir, Names: certs.Names{Domain: "deep.one.example"}})
	if !root(t, dir).Equal(second) {
		t.Error("replaced for a name it allowed")
	}
}

func TestRenewal(t *testing.T) {
	const day = 24 * time.Hour
	dir := t.TempDir()
	now := time.Now()
	clock := func() time.Time { return now }
	ca := open(t, certs.Options{Dir: dir, Now: clock})
	first := leaf(t, ca, "localhost", "127.0.0.1:1")
	now = now.Add(59 * day)
	if !leaf(t, ca, "localhost", "127.0.0.1:1").Equal(first) {
		t.Error("not kept")
	}
	now = now.Add(2 * day)
	second := leaf(t, ca, "localhost", "127.0.0.1:1")
	if second.Equal(first) || verify(root(t, dir), second, "localhost", now.Add(80*day)) != nil {
		t.Error("not renewed 29 days before its end")
	}
	old := root(t, dir)
	now = old.NotAfter.Add(-89 * day)
	ca = open(t, certs.Options{Dir: dir, Now: clock})
	if root(t, dir).Equal(old) {
		t.Error("the root was not replaced before its end")
	}
	if err := verify(root(t, dir), leaf(t, ca, "localhost", "127.0.0.1:1"), "localhost", now.Add(89*day)); err != nil {
		t.Error(err)
	}
}

func TestManyNames(t *testing.T) {
	ca := open(t, certs.Options{Dir: t.TempDir()})
	first := leaf(t, ca, "n0.localhost", "127.0.0.1:1")
	for i := range 1024 {
		leaf(t, ca, fmt.Sprintf("n%d.localhost", i), "127.0.0.1:1")
	}
	if !leaf(t, ca, "n0.localhost", "127.0.0.1:1").Equal(first) {
		t.Error("not kept among 1,024")
	}
	leaf(t, ca, "n1024.localhost", "127.0.0.1:1")
	leaf(t, ca, "n1025.localhost", "127.0.0.1:1")
	if !leaf(t, ca, "n0.localhost", "127.0.0.1:1").Equal(first) {
		t.Error("the most recently used went first")
	}
}

// TestHandshake makes a real one for each way a client may name us.
func TestHandshake(t *testing.T) {
	dir := t.TempDir()
	ca := open(t, certs.Options{Dir: dir})
	pool := x509.NewCertPool()
	pool.AddCert(root(t, dir))
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: ca.GetCertificate})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn) // ends with the client
			conn.Close()
		}
	}()
	for name, ok := range map[string]bool{
		"localhost": true, "8000-x.localhost": true, "127.0.0.1": true, "example.org": false,
	} {
		conn, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: pool, ServerName: name})
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			conn.Close()
		} else if !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// files returns what lies in a directory, by name.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil && !e.IsDir() {
			t.Fatal(err)
		}
		all[e.Name()] = string(data)
	}
	return all
}

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(data)
	block.Bytes[len(block.Bytes)-1] ^= 1 // in the signature
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o644)
}

func copyFile(to, from, name string) error {
	data, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name), data, 0o600)
}

func asDirectory(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o755)
}
