package certs_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sandlot-dev/sandlot/internal/certs"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// pair writes a certificate for names and its key, and returns the certificate.
func pair(t testing.TB, cert, key string, fill func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	dir := t.TempDir()
	open(t, certs.Options{Dir: dir})
	made, own := signFor(t, root(t, dir), readKey(t, dir), fill)
	der, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cert, "CERTIFICATE", made.Raw)
	write(t, key, "PRIVATE KEY", der)
	return made
}

func write(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wildcard(c *x509.Certificate) { c.DNSNames = []string{"x.example", "*.x.example"} }

// inUse returns which certificate the files give.
func inUse(t testing.TB, f *certs.Files) *x509.Certificate {
	t.Helper()
	cert, err := f.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	first := pair(t, cert, key, wildcard)
	synctest.Test(t, func(t *testing.T) { // so that a second passes at once
		var log bytes.Buffer
		f, err := certs.OpenFiles(cert, key, "x.example", slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if !inUse(t, f).Equal(first) {
			t.Error("another certificate")
		}
		if err := os.WriteFile(key, []byte("half of a"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if !inUse(t, f).Equal(first) || !strings.Contains(log.String(), "the old one stays") {
			t.Errorf("a broken change took effect; the log says %q", log.String())
		}
		log.Reset()
		time.Sleep(2 * time.Second)
		if inUse(t, f); log.Len() > 0 {
			t.Errorf("told twice: %q", log.String())
		}
		second := pair(t, cert, key, wildcard)
		time.Sleep(2 * time.Second)
		if !inUse(t, f).Equal(second) {
			t.Error("the change did not take effect")
		}
		if err := os.Remove(cert); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if !inUse(t, f).Equal(second) {
			t.Error("lost with its file")
		}
	})
}

func TestFilesOfNoUse(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pair(t, cert, key, wildcard)
	pair(t, filepath.Join(dir, "other.pem"), filepath.Join(dir, "otherkey.pem"), wildcard)
	for name, c := range map[string]struct{ cert, key, says string }{
		"missing":          {cert, filepath.Join(dir, "none"), "no such file"},
		"another's key":    {cert, filepath.Join(dir, "otherkey.pem"), "does not match"},
		"the wrong way":    {key, cert, "certificate"},
		"no certificate":   {key, key, "certificate"},
		"a directory":      {dir, key, "directory"},
		"two certificates": {cert, cert, "key"},
	} {
		_, err := certs.OpenFiles(c.cert, c.key, "x.example", slog.New(slog.DiscardHandler))
		if !errs.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "tls.cert") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDoubtfulFilesAreUsedButTold(t *testing.T) {
	for name, c := range map[string]struct {
		fill func(*x509.Certificate)
		says string
	}{
		"good":        {wildcard, ""},
		"no wildcard": {func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} }, "it is not for *.x.example"},
		"over": {func(c *x509.Certificate) {
			wildcard(c)
			c.NotAfter = time.Now().Add(-time.Minute)
		}, "it is valid from"},
	} {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		made := pair(t, cert, key, c.fill)
		var log bytes.Buffer
		f, err := certs.OpenFiles(cert, key, "x.example", slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if !inUse(t, f).Equal(made) || (c.says == "") != (log.Len() == 0) || !strings.Contains(log.String(), c.says) {
			t.Errorf("%s: the log says %q", name, log.String())
		}
	}
}
