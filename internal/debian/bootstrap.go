package debian

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Bootstrap says what file system to build.
type Bootstrap struct {
	// Suite is a Debian release by code name.
	Suite string
	// Packages are installed beside the smallest system that has apt.
	Packages []string
	// Mirror and AptOptions say where and how packages are fetched.
	Mirror     Mirror
	AptOptions []string
	// DpkgOptions apply during the build and stay in the result.
	DpkgOptions []string
	// Hook is a program that is run with the path of the file system twice: with
	// MMDEBSTRAP_HOOK=essential when the smallest system is there, and with
	// MMDEBSTRAP_HOOK=customize when all packages are. It sees Env.
	Hook string
	// Env is added to what the build sees of the environment.
	Env []string
	// Dir is an existing directory for everything temporary.
	Dir string
	// Step, if set, is called with each step in mmdebstrap's words. It must not
	// block.
	Step func(text string)
}

// Time a build has to end by itself after it was asked to; it removes its
// temporary files in it.
const grace = 10 * time.Second

// Run builds the file system and writes it to w as a tar stream. It needs root
// and the network. Cancelling ctx ends mmdebstrap and everything it started,
// and Run returns only after that. A failure carries the last lines of its
// output.
func (b Bootstrap) Run(ctx context.Context, w io.Writer) error {
	if os.Geteuid() != 0 {
		return errs.New(errs.Forbidden, "building a template needs root")
	}
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return errs.New(errs.Unsupported, "mmdebstrap is missing").
			WithHint("apt-get install mmdebstrap debian-archive-keyring")
	}
	if _, err := os.Stat(Keyring); err != nil {
		return errs.New(errs.Unsupported, "the keys of the Debian archive are missing").
			WithHint("apt-get install debian-archive-keyring")
	}
	cmd := exec.Command(program, b.args()...) //nolint:noctx // ended below, as a group
	cmd.Env = b.environ()
	cmd.Dir = b.Dir
	cmd.Stdout = w
	cmd.WaitDelay = grace
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, Pdeathsig: syscall.SIGTERM,
		// What the build mounts is seen by nobody else and ends with it.
		Unshareflags: syscall.CLONE_NEWNS,
	}
	output := &tail{step: b.Step}
	cmd.Stderr = output
	if err := runGroup(ctx, cmd); err != nil {
		return b.failure(ctx, err, output.last())
	}
	return nil
}

func (b Bootstrap) args() []string {
	args := []string{
		"--variant=minbase", "--mode=root", "--format=tar",
		"--include=" + strings.Join(b.Packages, ","),
	}
	for _, o := range b.DpkgOptions {
		args = append(args, "--dpkgopt="+o)
	}
	for _, o := range b.AptOptions {
		args = append(args, "--aptopt="+o)
	}
	if b.Hook != "" {
		args = append(args, "--essential-hook="+b.Hook, "--customize-hook="+b.Hook)
	}
	args = append(args, b.Suite, "-")
	return append(args, b.Mirror.Lines(b.Suite)...)
}

// environ passes on only what fetching may need, so that a build does not
// depend on the shell it was started from.
func (b Bootstrap) environ() []string {
	env := []string{"LC_ALL=C.UTF-8", "HOME=/root", "TMPDIR=" + b.Dir, "DEBIAN_FRONTEND=noninteractive"}
	for _, name := range []string{"PATH", "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
		if v, ok := os.LookupEnv(strings.ToUpper(name)); ok && name != "PATH" {
			env = append(env, strings.ToUpper(name)+"="+v)
		}
	}
	return append(env, b.Env...)
}

// failure explains why mmdebstrap ended.
func (b Bootstrap) failure(ctx context.Context, err error, lines []string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("mmdebstrap: %w", context.Cause(ctx))
	}
	text := strings.Join(lines, "\n  ")
	e := errs.New(errs.Unavailable, "mmdebstrap could not build Debian %s; its last lines were:\n  %s", b.Suite, text)
	e.Cause = err
	return e.WithHint("%s", hint(text))
}

// hint tells the commonest reasons apart.
func hint(output string) string {
	low := strings.ToLower(output)
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(low, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("no space left"):
		return "free some space in the data directory: a build needs about 2 GB"
	case has("npm"):
		return "the npm registry could not be read: set NPM_CONFIG_REGISTRY to one that can"
	case has("no_pubkey", "not signed", "signature"):
		return "the mirror's keys are not known: update the package debian-archive-keyring"
	case has("does not have a release file", "404", "not found"):
		return "the mirror does not serve this Debian release: name one that does in SANDLOT_DEBIAN_MIRROR"
	case has("could not resolve", "temporary failure", "could not connect", "connection", "timed out", "unable to fetch", "failed to fetch"):
		return "the mirror cannot be reached: look at the network and apt's proxy settings, or name another mirror in SANDLOT_DEBIAN_MIRROR"
	case has("must be root", "permission denied", "operation not permitted"):
		return "building templates needs root"
	}
	return "try again; if it stays, run mmdebstrap by hand with the same suite to see more"
}

// runGroup runs cmd, which must be made the leader of a process group. When
// ctx ends it asks the group to end, and after a while makes it.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	// The kernel sends Pdeathsig when the thread ends that started the child, so
	// this one must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		stopGroup(ctx, -cmd.Process.Pid, ended)
	}()
	err := cmd.Wait()
	close(ended)
	<-watched
	// Whatever the leader left running has no reason to live on.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	return err
}

func stopGroup(ctx context.Context, group int, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	_ = syscall.Kill(group, syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(grace):
		_ = syscall.Kill(group, syscall.SIGKILL)
	}
}

// tailLines is how much of the output a failure shows.
const tailLines = 20

// tail keeps the last lines written to it and reports mmdebstrap's steps. It is
// used by one goroutine at a time.
type tail struct {
	step  func(string)
	lines []string
	part  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.part = append(t.part, p...)
	for {
		n, line, err := bufio.ScanLines(t.part, false)
		if err != nil || n == 0 {
			return len(p), nil
		}
		t.add(string(line))
		t.part = t.part[n:]
	}
}

func (t *tail) add(line string) {
	if i := strings.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:] // of a progress line that redraws itself, what it ended with
	}
	if strings.TrimSpace(line) == "" {
		return
	}
	if t.lines = append(t.lines, line); len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
	if text, ok := strings.CutPrefix(line, "I: "); ok && t.step != nil {
		t.step(text)
	}
}

func (t *tail) last() []string {
	if len(t.part) > 0 {
		t.add(string(t.part))
		t.part = nil
	}
	return t.lines
}
