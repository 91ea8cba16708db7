// Package compat_test runs the official E2B SDKs, unmodified, against the real
// binary. The cases are written in JavaScript (cases/*.test.mjs) and run once
// with each SDK version that has a directory here; each case becomes a subtest.
package compat_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/test/harness"
)

// newest is the version that runs the cases by name as well.
const newest = "v2.51.0"

// TestOfficialSDK starts one server and runs all cases with each version, which
// finds sandboxes by header over plain HTTP; and with the newest one again, by
// name over TLS. SANDLOT_COMPAT_SDK=v2.51.0 limits it to one version and
// SANDLOT_COMPAT_CASES=files to the files with that in their name.
func TestOfficialSDK(t *testing.T) {
	versions := matching(t, "v*", "SANDLOT_COMPAT_SDK")
	cases := matching(t, "cases/*.test.mjs", "SANDLOT_COMPAT_CASES")
	server := harness.Start(t, harness.Options{})
	for _, version := range versions {
		name := filepath.Base(version)
		t.Run(name, func(t *testing.T) { runCases(t, server, version, cases, server.Env()) })
		if name == newest {
			env := append(server.EnvByName(), "NODE_OPTIONS=--require="+filepath.Join(filepath.Dir(cases[0]), "localhost.cjs"))
			t.Run(name+" by name", func(t *testing.T) { runCases(t, server, version, cases, env) })
		}
	}
}

// runCases makes each case a subtest.
func runCases(t *testing.T, server *harness.Server, version string, cases, env []string) {
	t.Helper()
	node := harness.Node(t, version)
	// Cases wait more than they compute.
	args := append([]string{"--test", "--test-concurrency=4", "--test-reporter=./cases/reporter.mjs"}, cases...)
	cmd := exec.CommandContext(t.Context(), node, args...)
	cmd.Env = append(append(os.Environ(), env...), "SANDLOT_SDK="+filepath.Join(version, "sdk.mjs"), "SANDLOT_URL="+server.URL)
	harness.NodeTests(t, cmd)
}

// matching lists the paths of pattern whose names contain the variable's value.
func matching(t *testing.T, pattern, variable string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, path := range found {
		if strings.Contains(filepath.Base(path), os.Getenv(variable)) {
			abs, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, abs)
		}
	}
	if len(out) == 0 {
		t.Fatalf("nothing matches %s with %s=%s", pattern, variable, os.Getenv(variable))
	}
	return out
}

// TestLockFilesNameNoRegistry keeps the lock files of all tests usable with any registry.
func TestLockFilesNameNoRegistry(t *testing.T) {
	locks := append(matching(t, "v*/package-lock.json", "SANDLOT_NO_FILTER"), matching(t, "../*/package-lock.json", "SANDLOT_NO_FILTER")...)
	for _, lock := range locks {
		text, err := os.ReadFile(lock)
		if err != nil {
			t.Fatal(err)
		}
		for _, forbidden := range []string{"://", `"resolved"`} {
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, forbidden) && !strings.Contains(line, `"url"`) {
					t.Errorf("%s: %s", lock, strings.TrimSpace(line))
				}
			}
		}
	}
}
