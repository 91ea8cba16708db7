package trust_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/testreq"
	"github.com/sandlot-dev/sandlot/internal/trust"
)

func newRoot(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		Subject: pkix.Name{CommonName: "Sandlot local CA 01234567"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// machine is a host with some directories and programs, which notes what is run.
type machine struct {
	trust.Host
	ran  []string
	fail error
}

func newMachine(t testing.TB, dirs, programs []string) *machine {
	t.Helper()
	m := &machine{Host: trust.Host{Root: t.TempDir()}}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(m.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.LookPath = func(name string) (string, error) {
		if slices.Contains(programs, name) {
			return "/usr/sbin/" + name, nil
		}
		return "", exec.ErrNotFound
	}
	m.Run = func(cmd *exec.Cmd) ([]byte, error) {
		m.ran = append(m.ran, strings.Join(append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...), " "))
		return []byte("no space"), m.fail
	}
	return m
}

func TestSystems(t *testing.T) {
	const name = "sandlot-local-ca-01234567.crt"
	for distribution, c := range map[string]struct {
		dirs, programs []string
		file           string
		ran            []string
	}{
		"Debian": {
			[]string{"/usr/local/share/ca-certificates"},
			[]string{"update-ca-certificates"},
			"/usr/local/share/ca-certificates/" + name,
			[]string{"update-ca-certificates", "update-ca-certificates --fresh"},
		},
		"Fedora": {
			[]string{"/etc/pki/ca-trust/source/anchors"},
			[]string{"update-ca-trust"},
			"/etc/pki/ca-trust/source/anchors/" + name,
			[]string{"update-ca-trust extract", "update-ca-trust extract"},
		},
		"Arch": {
			[]string{"/etc/ca-certificates/trust-source/anchors"},
			[]string{"update-ca-trust"},
			"/etc/ca-certificates/trust-source/anchors/" + name,
			[]string{"update-ca-trust", "update-ca-trust"},
		},
		"SUSE": {
			[]string{"/etc/pki/trust/anchors", "/usr/local/share/ca-certificates"},
			[]string{"update-ca-certificates"},
			"/etc/pki/trust/anchors/" + name,
			[]string{"update-ca-certificates", "update-ca-certificates"},
		},
	} {
		t.Run(distribution, func(t *testing.T) {
			m, root := newMachine(t, c.dirs, c.programs), newRoot(t)
			path := filepath.Join(m.Root, c.file)
			if r, err := m.Install(t.Context(), root); err != nil || len(r.Done) != 1 || !strings.Contains(r.Done[0], path) {
				t.Fatalf("Install = %+v, %v", r, err)
			}
			text, err := os.ReadFile(path)
			if block, _ := pem.Decode(text); err != nil || block == nil || !slices.Equal(block.Bytes, root.Raw) {
				t.Errorf("the file holds %q, %v", text, err)
			}
			if r, err := m.Uninstall(t.Context(), root); err != nil || len(r.Done) != 1 {
				t.Errorf("Uninstall = %+v, %v", r, err)
			}
			if r, err := m.Uninstall(t.Context(), root); err != nil || len(r.Done) != 0 {
				t.Errorf("Uninstall again = %+v, %v", r, err)
			}
			if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 0 {
				t.Errorf("left: %v, %v", left, err)
			}
			if diff := cmp.Diff(c.ran, m.ran); diff != "" {
				t.Errorf("programs (-want +ran):\n%s", diff)
			}
		})
	}
}

func TestNoStore(t *testing.T) {
	for name, m := range map[string]*machine{
		"nothing":   newMachine(t, nil, nil),
		"directory": newMachine(t, []string{"/usr/local/share/ca-certificates"}, nil),
		"program":   newMachine(t, nil, []string{"update-ca-certificates"}),
	} {
		if _, err := m.Install(t.Context(), newRoot(t)); !errs.Is(err, errs.Unsupported) {
			t.Errorf("%s: Install = %v", name, err)
		}
		if r, err := m.Uninstall(t.Context(), newRoot(t)); err != nil || len(r.Done) > 0 {
			t.Errorf("%s: Uninstall = %+v, %v", name, r, err)
		}
	}
}

func TestProgramFails(t *testing.T) {
	m := newMachine(t, []string{"/usr/local/share/ca-certificates"}, []string{"update-ca-certificates"})
	m.fail = errors.New("exit status 1")
	if _, err := m.Install(t.Context(), newRoot(t)); !errors.Is(err, m.fail) || !strings.Contains(err.Error(), "update-ca-certificates: exit status 1: no space") {
		t.Errorf("Install = %v", err)
	}
}

func TestWithoutCertutil(t *testing.T) {
	m := newMachine(t, []string{"/usr/local/share/ca-certificates"}, []string{"update-ca-certificates"})
	m.User = trust.User{Name: "ann", Home: "/home/ann", UID: 1000, GID: 1000}
	r, err := m.Install(t.Context(), newRoot(t))
	if err != nil || len(r.Done) != 1 || len(r.Left) != 1 || !strings.Contains(r.Left[0], "libnss3-tools") {
		t.Errorf("Install = %+v, %v", r, err)
	}
}

func TestTrusts(t *testing.T) {
	root, other := newRoot(t), newRoot(t)
	for name, c := range map[string]struct {
		bundle string
		want   bool
	}{
		"in it":     {text(other) + "# a comment\n" + text(root), true},
		"not in it": {text(other), false},
		"empty":     {"", false},
		"garbage":   {"-----BEGIN CERTIFICATE-----\nnothing\n", false},
	} {
		m := newMachine(t, []string{"/etc/ssl/certs"}, nil)
		if err := os.WriteFile(filepath.Join(m.Root, "/etc/ssl/certs/ca-certificates.crt"), []byte(c.bundle), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := m.Trusts(root); got != c.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := newMachine(t, nil, nil).Trusts(root); got || err != nil {
		t.Errorf("without a bundle: %v, %v", got, err)
	}
}

func text(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}

func TestInvoker(t *testing.T) {
	u, err := trust.Invoker(func(string) string { return "" })
	if err != nil || int(u.UID) != os.Getuid() || u.Home == "" {
		t.Errorf("Invoker = %+v, %v", u, err)
	}
	// Only root may act for somebody else.
	u, err = trust.Invoker(func(string) string { return "daemon" })
	if want := map[bool]string{true: "daemon", false: u.Name}[os.Getuid() == 0]; err != nil || u.Name != want {
		t.Errorf("Invoker under sudo = %+v, %v", u, err)
	}
}

// TestBrowsers uses the real certutil on a home directory of the test's.
func TestBrowsers(t *testing.T) {
	certutil := testreq.Command(t, "certutil", "libnss3-tools")
	m := newMachine(t, []string{"/usr/local/share/ca-certificates", "/home/ann/.mozilla/firefox/x.default", "/home/ann/.mozilla/firefox/Crash Reports"}, nil)
	m.User = trust.User{Name: "ann", Home: "/home/ann", UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	m.LookPath = func(name string) (string, error) {
		if name == "update-ca-certificates" {
			return "/bin/true", nil
		}
		return exec.LookPath(name)
	}
	m.Run = nil
	home := filepath.Join(m.Root, m.User.Home)
	firefox := filepath.Join(home, ".mozilla/firefox/x.default")
	list := func(dir string) string {
		out, err := exec.CommandContext(t.Context(), certutil, "-d", "sql:"+dir, "-L").CombinedOutput()
		if err != nil {
			t.Fatalf("certutil: %v: %s", err, out)
		}
		return string(out)
	}
	if out, err := exec.CommandContext(t.Context(), certutil, "-d", "sql:"+firefox, "-N", "--empty-password").CombinedOutput(); err != nil {
		t.Fatalf("certutil: %v: %s", err, out)
	}
	root := newRoot(t)
	for range 2 {
		if r, err := m.Install(t.Context(), root); err != nil || len(r.Done) != 3 {
			t.Fatalf("Install = %+v, %v", r, err)
		}
	}
	for _, dir := range []string{firefox, filepath.Join(home, ".pki/nssdb")} {
		if l := list(dir); strings.Count(l, "Sandlot local CA 01234567") != 1 || !strings.Contains(l, "C,,") {
			t.Errorf("%s lists %s", dir, l)
		}
	}
	if r, err := m.Uninstall(t.Context(), root); err != nil || len(r.Done) != 3 {
		t.Errorf("Uninstall = %+v, %v", r, err)
	}
	if l := list(firefox); strings.Contains(l, "Sandlot") {
		t.Errorf("still listed: %s", l)
	}
}
