// Package testreq lets tests say what they need of the machine. A test whose
// need is not met skips and names what is missing; with
// SANDLOT_TEST_REQUIRE=all it fails instead, so that a run that promises to
// prove everything cannot hide a missing part. Only tests import it.
package testreq

import (
	"os"
	"os/exec"
	"testing"
)

// Root requires effective user id 0.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root (CAP_SYS_ADMIN): run the tests as root")
	}
}

// Command requires a program on PATH and returns where it is.
func Command(t testing.TB, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "the program "+name+" (Debian package "+debianPackage+")")
	}
	return path
}

// File requires that path exists.
func File(t testing.TB, path, how string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		Missing(t, path+": "+how)
	}
}

// Missing skips the test and says what was missing, or fails it when every
// test must run.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("SANDLOT_TEST_REQUIRE") == "all" {
		t.Fatalf("missing %s (SANDLOT_TEST_REQUIRE=all forbids skipping)", what)
	}
	t.Skipf("missing %s", what)
}
