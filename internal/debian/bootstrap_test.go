package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

func TestArgs(t *testing.T) {
	b := Bootstrap{
		Suite: "trixie", Packages: []string{"bash", "curl"}, Mirror: Mirror{Main: "http://m.test/debian"},
		AptOptions: []string{`Acquire::Retries "3"`}, DpkgOptions: []string{"force-unsafe-io"}, Hook: "/h",
	}
	want := []string{
		"--variant=minbase", "--mode=root", "--format=tar", "--include=bash,curl",
		"--dpkgopt=force-unsafe-io", `--aptopt=Acquire::Retries "3"`,
		"--essential-hook=/h", "--customize-hook=/h", "trixie", "-",
		"deb [signed-by=" + Keyring + "] http://m.test/debian trixie main",
		"deb [signed-by=" + Keyring + "] http://m.test/debian trixie-updates main",
	}
	if d := cmp.Diff(want, b.args()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestEnvironHoldsOnlyWhatFetchingNeeds(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy.test")
	t.Setenv("SANDLOT_SECRET", "x")
	env := strings.Join(Bootstrap{Dir: "/d", Env: []string{"A=b"}}.environ(), "\n") + "\n"
	for _, want := range []string{"TMPDIR=/d\n", "HTTPS_PROXY=http://proxy.test\n", "A=b\n", "PATH="} {
		if !strings.Contains(env, want) {
			t.Errorf("%q is missing in:\n%s", want, env)
		}
	}
	if strings.Contains(env, "SECRET") {
		t.Errorf("too much in:\n%s", env)
	}
}

func TestFailureShowsTheEndAndAHint(t *testing.T) {
	out := &tail{}
	for i := range 30 {
		fmt.Fprintf(out, "line %d\n", i)
	}
	fmt.Fprint(out, "10%\r50%\rE: Could not resolve 'm.test'")
	err := Bootstrap{Suite: "trixie"}.failure(t.Context(), errors.New("exit status 1"), out.last())
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Unavailable {
		t.Fatalf("%v, want %v", err, errs.Unavailable)
	}
	if strings.Contains(e.Public, "line 10\n") || !strings.Contains(e.Public, "line 11\n") || !strings.Contains(e.Public, "E: Could not resolve") {
		t.Errorf("not the last 20 lines: %s", e.Public)
	}
	if strings.Contains(e.Public, "10%") || !strings.Contains(e.Hint, "cannot be reached") {
		t.Errorf("%s\nhint: %s", e.Public, e.Hint)
	}
}

func TestHints(t *testing.T) {
	for output, want := range map[string]string{
		"E: write: No space left on device":                          "free some space",
		"E: The repository 'x' does not have a Release file.":        "SANDLOT_DEBIAN_MIRROR",
		"E: npm could not be fetched from the npm registry":          "NPM_CONFIG_REGISTRY",
		"W: GPG error: NO_PUBKEY 123":                                "debian-archive-keyring",
		"Err: Could not connect to m.test:80, connection timed out":  "cannot be reached",
		"E: something nobody has seen":                               "try again",
		"mount: /x: permission denied. dmesg(1) may have more about": "needs root",
	} {
		if got := hint(output); !strings.Contains(got, want) {
			t.Errorf("hint(%q) = %q, want %q in it", output, got, want)
		}
	}
}

func TestStepsAreReported(t *testing.T) {
	var steps []string
	out := &tail{step: func(s string) { steps = append(steps, s) }}
	for _, part := range []string{"I: run", "ning apt-get update...\nW: x\nI: creating", " tarball...\n\n"} {
		fmt.Fprint(out, part)
	}
	if d := cmp.Diff([]string{"running apt-get update...", "creating tarball..."}, steps); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A cancelled build ends with everything it started, also what does not listen.
func TestRunGroupEndsAll(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	ready := "trap '' TERM; sleep 300 & echo $! >" + pidFile + ".tmp; mv " + pidFile + ".tmp " + pidFile + "; trap 'exit 3' TERM; wait"
	cmd := exec.Command("sh", "-c", ready)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- runGroup(ctx, cmd) }()
	pid := waitForPID(t, pidFile)
	cancel(errors.New("enough"))
	if err := <-done; err == nil {
		t.Error("no error")
	}
	for range 100 {
		if unix.Kill(pid, 0) != nil || zombie(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d lives on", pid)
}

func waitForPID(t *testing.T, path string) int {
	t.Helper()
	for range 500 {
		if b, err := os.ReadFile(path); err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the program did not start")
	return 0
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// fakeMmdebstrap puts a program of that name on PATH.
func fakeMmdebstrap(t *testing.T, script string) {
	t.Helper()
	testreq.Root(t)
	testreq.File(t, Keyring, "install debian-archive-keyring")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mmdebstrap"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestRun(t *testing.T) {
	fakeMmdebstrap(t, `mount -t tmpfs none "$TMPDIR" || exit 1; echo "I: done" >&2; printf archive`)
	var out bytes.Buffer
	b := Bootstrap{Suite: "trixie", Dir: t.TempDir()}
	if err := b.Run(t.Context(), &out); err != nil || out.String() != "archive" {
		t.Errorf("Run: %q, %v", out.String(), err)
	}
	if left := mountsBelow(b.Dir); len(left) > 0 {
		t.Errorf("a mount of the build is seen outside: %v", left)
	}
}

func TestRunFails(t *testing.T) {
	fakeMmdebstrap(t, `echo "E: broken" >&2; exit 2`)
	err := Bootstrap{Suite: "trixie", Dir: t.TempDir()}.Run(t.Context(), &bytes.Buffer{})
	if !errs.Is(err, errs.Unavailable) || !strings.Contains(errs.PublicMessage(err), "E: broken") {
		t.Errorf("Run: %v", err)
	}
	broken := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if err := (Bootstrap{Dir: t.TempDir()}).Run(ctx, &bytes.Buffer{}); !errors.Is(err, broken) {
		t.Errorf("cancelled: %v, want %v", err, broken)
	}
}

func TestWithoutMmdebstrap(t *testing.T) {
	testreq.Root(t)
	t.Setenv("PATH", t.TempDir())
	var e *errs.Error
	err := (Bootstrap{}).Run(t.Context(), &bytes.Buffer{})
	if !errors.As(err, &e) || e.Kind != errs.Unsupported || !strings.Contains(e.Hint, "apt-get install mmdebstrap") {
		t.Errorf("Run: %v", err)
	}
}
