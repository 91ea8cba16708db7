package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// lookEvery is how often the files are looked at while they are in use.
const lookEvery = time.Second

// Files is a certificate of one's own, in two files that another program may
// renew. It is safe for concurrent use.
type Files struct {
	cert, key string
	domain    string
	logger    *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	stamp  stamp
	looked time.Time
}

// stamp tells one state of the files from another.
type stamp struct {
	cert, key state
}

type state struct {
	modified time.Time
	size     int64
}

// OpenFiles reads a certificate (with its chain) and its key for a domain. What
// is not to be used, such as a key of another certificate, is an error of kind
// Invalid; a certificate for other names or times is only told to the logger.
func OpenFiles(cert, key, domain string, logger *slog.Logger) (*Files, error) {
	f := &Files{cert: cert, key: key, domain: domain, logger: logger, stamp: look(cert, key), looked: time.Now()}
	var err error
	if f.loaded, err = f.load(); err != nil {
		return nil, errs.New(errs.Invalid, "the certificate in tls.cert and tls.key cannot be used: %v", err)
	}
	return f, nil
}

// GetCertificate is for tls.Config. It reads the files again if they have
// changed; while what they hold is of no use, the last good certificate stays.
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.looked) < lookEvery {
		return f.loaded, nil
	}
	f.looked = time.Now()
	now := look(f.cert, f.key)
	if now == f.stamp {
		return f.loaded, nil
	}
	f.stamp = now
	cert, err := f.load()
	if err != nil {
		f.logger.Warn("the changed certificate cannot be used; the old one stays", "cert", f.cert, "key", f.key, "error", err)
		return f.loaded, nil
	}
	f.logger.Info("read the changed certificate", "cert", f.cert, "expires", cert.Leaf.NotAfter)
	f.loaded = cert
	return cert, nil
}

func look(cert, key string) stamp { return stamp{lookAt(cert), lookAt(key)} }

// lookAt returns the state of a file; one that is missing has none.
func lookAt(path string) state {
	info, err := os.Stat(path)
	if err != nil {
		return state{}
	}
	return state{info.ModTime(), info.Size()}
}

func (f *Files) load() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("read %s and %s: %w", f.cert, f.key, err)
	}
	for _, doubt := range doubts(cert.Leaf, f.domain) {
		f.logger.Warn("clients will refuse the certificate for some names or at some times", "cert", f.cert, "because", doubt)
	}
	return &cert, nil
}

// doubts says what is wrong with a certificate for a domain.
func doubts(leaf *x509.Certificate, domain string) []string {
	var all []string
	if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		all = append(all, fmt.Sprintf("it is valid from %s to %s", leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339)))
	}
	if leaf.VerifyHostname("8000-x."+domain) != nil {
		all = append(all, "it is not for *."+domain)
	}
	return all
}
