// Package trust makes the programs of this machine trust a certificate, and
// stop trusting it: through the system's store, which most programs read, and
// through the NSS databases of one user, which browsers read. It owns the files
// it puts there and knows them by the certificate's name. The daemon uses it.
package trust

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// patience bounds each program that is run.
const patience = 2 * time.Minute

// Host is the machine. The zero value is this one, with no user's browsers.
type Host struct {
	// Root is where its files lie; empty means /.
	Root string
	// User is whose browsers are told; the zero value is nobody.
	User User
	// LookPath finds programs, as exec.LookPath does; nil means that.
	LookPath func(string) (string, error)
	// Run runs a program and returns what it printed; nil means really.
	Run func(*exec.Cmd) ([]byte, error)
}

// Result says what was done.
type Result struct {
	// Done are the stores that were changed, in words.
	Done []string
	// Left are those that were not, and what to do about it.
	Left []string
}

// system is how a family of distributions takes certificates.
type system struct {
	dir     string
	program string
	add     []string
	remove  []string
}

// systems in the order they are looked for: SUSE has Debian's program, with a
// directory of its own.
var systems = [...]system{
	{"/etc/pki/trust/anchors", "update-ca-certificates", nil, nil},                                    // SUSE
	{"/usr/local/share/ca-certificates", "update-ca-certificates", nil, []string{"--fresh"}},          // Debian, Ubuntu, Alpine
	{"/etc/pki/ca-trust/source/anchors", "update-ca-trust", []string{"extract"}, []string{"extract"}}, // Fedora, RHEL
	{"/etc/ca-certificates/trust-source/anchors", "update-ca-trust", nil, nil},                        // Arch
}

// bundles are the files in which distributions keep all certificates they
// trust: Debian, Ubuntu, Arch and Alpine; Fedora and RHEL; SUSE.
var bundles = [...]string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
}

// Bundle returns the file of all certificates the system trusts, empty if it
// has none.
func (h Host) Bundle() string {
	for _, path := range bundles {
		if info, err := os.Stat(h.path(path)); err == nil && info.Mode().IsRegular() {
			return h.path(path)
		}
	}
	return ""
}

// Trusts reports whether the system's bundle holds a certificate.
func (h Host) Trusts(cert *x509.Certificate) (bool, error) {
	bundle := h.Bundle()
	if bundle == "" {
		return false, nil
	}
	text, err := os.ReadFile(bundle)
	if err != nil {
		return false, err
	}
	for len(text) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if bytes.Equal(block.Bytes, cert.Raw) {
			return true, nil
		}
	}
	return false, nil
}

// Install makes the system and the user's browsers trust cert. Doing it again
// changes nothing. Stores that are not there are no error; a host without a
// store of the system's is.
func (h Host) Install(ctx context.Context, cert *x509.Certificate) (Result, error) {
	s, program, ok := h.system()
	if !ok {
		return Result{}, errs.New(errs.Unsupported, "this system has no store of trusted certificates that sandlot knows").
			WithHint("install the package ca-certificates and run this again")
	}
	path := filepath.Join(h.path(s.dir), fileName(cert))
	if err := atomicfile.Write(path, encode(cert), 0o644); err != nil {
		return Result{}, fmt.Errorf("write the certificate: %w", err)
	}
	if err := h.run(ctx, program, s.add...); err != nil {
		return Result{}, err
	}
	r := Result{Done: []string{"the system's store (" + path + ")"}}
	return r, h.browsers(ctx, cert, &r, h.addTo)
}

// Uninstall takes cert out of all stores it is in. Where it is not, nothing is
// done.
func (h Host) Uninstall(ctx context.Context, cert *x509.Certificate) (Result, error) {
	var r Result
	if s, program, ok := h.system(); ok {
		path := filepath.Join(h.path(s.dir), fileName(cert))
		switch err := os.Remove(path); {
		case err == nil:
			if err := h.run(ctx, program, s.remove...); err != nil {
				return r, err
			}
			r.Done = append(r.Done, "the system's store ("+path+")")
		case !errors.Is(err, fs.ErrNotExist):
			return r, fmt.Errorf("remove the certificate: %w", err)
		}
	}
	return r, h.browsers(ctx, cert, &r, h.removeFrom)
}

// system returns how this host takes certificates.
func (h Host) system() (s system, program string, ok bool) {
	for _, s := range systems {
		info, err := os.Stat(h.path(s.dir))
		if err != nil || !info.IsDir() {
			continue
		}
		if program, err := h.lookPath(s.program); err == nil {
			return s, program, true
		}
	}
	return system{}, "", false
}

// fileName is a certificate's in the system's store: that of its subject, which
// names the CA's key.
func fileName(cert *x509.Certificate) string {
	return strings.ReplaceAll(strings.ToLower(cert.Subject.CommonName), " ", "-") + ".crt"
}

func encode(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func (h Host) path(p string) string { return filepath.Join("/", h.Root, p) }

func (h Host) lookPath(name string) (string, error) {
	if h.LookPath != nil {
		return h.LookPath(name)
	}
	return exec.LookPath(name)
}

// run runs a program of the system's.
func (h Host) run(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return h.do(exec.CommandContext(ctx, program, args...))
}

func (h Host) do(cmd *exec.Cmd) error {
	run := h.Run
	if run == nil {
		run = (*exec.Cmd).CombinedOutput
	}
	out, err := run(cmd)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(out))
	}
	return nil
}
