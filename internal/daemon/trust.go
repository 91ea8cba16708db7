package daemon

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sandlot-dev/sandlot/internal/certs"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/trust"
)

// Trust makes this machine's programs, and the browsers of the user who asks,
// trust the local CA. Without root it only says how.
func (d Daemon) Trust(ctx context.Context, cfg config.Config, words io.Writer) error {
	if os.Geteuid() != 0 {
		_, err := localRoot(cfg)
		if err == nil {
			fmt.Fprintln(words, "nothing was changed, which needs root: sudo sandlot trust")
		}
		return err
	}
	return withTrust(cfg, words, "trusted", func(h trust.Host, root *x509.Certificate) (trust.Result, error) {
		return h.Install(ctx, root)
	})
}

// Distrust undoes Trust. Without root it is refused.
func (d Daemon) Distrust(ctx context.Context, cfg config.Config, words io.Writer) error {
	if err := mayDistrust(os.Geteuid()); err != nil {
		return err
	}
	return withTrust(cfg, words, "no longer trusted", func(h trust.Host, root *x509.Certificate) (trust.Result, error) {
		return h.Uninstall(ctx, root)
	})
}

func mayDistrust(euid int) error {
	if euid == 0 {
		return nil
	}
	return errs.New(errs.Forbidden, "nothing was changed: taking a certificate out of the system's store needs root").
		WithHint("sudo sandlot trust --uninstall")
}

func withTrust(cfg config.Config, words io.Writer, what string, do func(trust.Host, *x509.Certificate) (trust.Result, error)) error {
	root, err := localRoot(cfg)
	if err != nil {
		return err
	}
	who, err := trust.Invoker(os.Getenv)
	if err != nil {
		return err
	}
	r, err := do(trust.Host{User: who}, root)
	for _, store := range r.Done {
		fmt.Fprintf(words, "%s is %s by %s\n", root.Subject.CommonName, what, store)
	}
	for _, left := range r.Left {
		fmt.Fprintln(words, "left out:", left)
	}
	if err == nil && len(r.Done) == 0 {
		fmt.Fprintln(words, "nothing was changed")
	}
	return err
}

// TrustFiles returns which certificates a program is to trust: the local CA's
// alone, for programs that add it to theirs, and a file of all that this
// machine trusts, for programs that know one file only.
func (d Daemon) TrustFiles(cfg config.Config) (root, bundle string, err error) {
	cert, err := localRoot(cfg)
	if err != nil {
		return "", "", err
	}
	dir := filepath.Join(cfg.DataDir, caDir)
	root, bundle = filepath.Join(dir, certs.RootFile), filepath.Join(dir, certs.BundleFile)
	h := trust.Host{}
	if in, err := h.Trusts(cert); err == nil && in {
		bundle = h.Bundle() // the system keeps it up to date
	}
	return root, bundle, nil
}

// localRoot returns the local CA's certificate.
func localRoot(cfg config.Config) (*x509.Certificate, error) {
	dir := filepath.Join(cfg.DataDir, caDir)
	root, err := certs.ReadRoot(dir)
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "cannot read the local CA in %s", dir)
	}
	if root == nil {
		return nil, errs.New(errs.NotFound, "there is no local CA in %s yet", dir).
			WithHint("start the server once (sandlot serve), or name its directory with --data-dir")
	}
	return root, nil
}

// forget takes the CA of a data directory that is about to be deleted out of
// the stores it was put into.
func (s *system) forget(ctx context.Context) error {
	root, err := certs.ReadRoot(s.path(caDir))
	if err != nil {
		return fmt.Errorf("if the local CA was trusted, it still is: its certificate cannot be read: %w", err)
	}
	if root == nil {
		return nil
	}
	who, err := trust.Invoker(os.Getenv)
	if err != nil {
		return err
	}
	_, err = trust.Host{User: who}.Uninstall(ctx, root)
	return err
}

// trustFeature tells whether programs of this machine trust the local CA.
func trustFeature(cfg config.Config) driver.Feature {
	f := driver.Feature{Name: "local CA trusted by this system"}
	root, err := localRoot(cfg)
	if err == nil {
		f.OK, err = trust.Host{}.Trusts(root)
		f.Detail = root.Subject.CommonName
	}
	if err != nil {
		f.Detail = err.Error()
	}
	if !f.OK {
		f.Cost = "https://<port>-<sandbox>.localhost is refused by programs that were not told to trust it; plain HTTP is not concerned"
		f.Fix = "sudo sandlot trust (after the first start of the server)"
	}
	return f
}
