// Package browser_test has a real browser, Chromium, open what sandboxes serve.
// It trusts the server's CA as a user's browser does, through the NSS database
// of a home directory made for the test; no certificate error is ignored.
package browser_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/testreq"
	"github.com/sandlot-dev/sandlot/test/harness"
)

func TestBrowser(t *testing.T) {
	testreq.Root(t)
	chromium := testreq.Command(t, "chromium", "chromium")
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	node := harness.Node(t, dir)
	server := harness.Start(t, harness.Options{})
	home := t.TempDir()
	trust(t, home, server.RootCertificate())

	cmd := exec.CommandContext(t.Context(), node, "--test", "--test-reporter=../compat/cases/reporter.mjs", "browser.mjs")
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), server.Env()...), "SANDLOT_BROWSER="+chromium, "HOME="+home)
	harness.NodeTests(t, cmd)
}

// trust puts the certificate into the store that Chromium reads in home.
func trust(t *testing.T, home, certificate string) {
	t.Helper()
	certutil := testreq.Command(t, "certutil", "libnss3-tools")
	db := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-N", "--empty-password"},
		{"-A", "-n", "sandlot-test", "-t", "C,,", "-i", certificate},
	} {
		cmd := exec.CommandContext(t.Context(), certutil, append([]string{"-d", "sql:" + db}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
}
