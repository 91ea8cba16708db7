package agent_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/sandlot-dev/sandlot/internal/agent"
)

// separately, in the environment, makes this test's program an agent that serves
// at a path; with "mount" in mode it first mounts a file on another.
const separately = "SANDLOT_TEST_AGENT_SOCKET"

func TestMain(m *testing.M) {
	if socket := os.Getenv(separately); socket != "" {
		os.Exit(serveSeparately(socket, os.Getenv("SANDLOT_TEST_AGENT_MODE")))
	}
	goleak.VerifyTestMain(m)
}

func serveSeparately(socket, mode string) int {
	dir := filepath.Dir(socket)
	if mode == "mount" {
		home := filepath.Join(dir, "home")
		if syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") != nil ||
			os.WriteFile(home+"/mounted", nil, 0o600) != nil ||
			syscall.Mount(dir+"/passwd", home+"/mounted", "", syscall.MS_BIND, "") != nil {
			return 2
		}
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return 3
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	opts := agent.Options{
		PasswdFile: filepath.Join(dir, "passwd"), GroupFile: filepath.Join(dir, "group"),
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	if agent.Serve(ctx, ln, opts) != nil {
		return 4
	}
	return 0
}

// separateAgent is an agent in a process of its own.
type separateAgent struct {
	*testAgent
	pid int
}

// startSeparately starts an agent in a process of its own, whose memory and
// limits are not the test's.
func startSeparately(t testing.TB, mode string) separateAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandlot") // short: a socket path has at most 107 bytes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := separateAgent{testAgent: &testAgent{socket: filepath.Join(dir, "agent.sock"), home: filepath.Join(dir, "home")}}
	a.accounts(t, dir)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), separately+"="+a.socket, "SANDLOT_TEST_AGENT_MODE="+mode,
		"GOMAXPROCS=1", "GOGC=50", "GOMEMLIMIT=128MiB") // as in a sandbox
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if mode == "mount" {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	must(t, cmd.Start())
	a.pid = cmd.Process.Pid
	a.connect(t)
	t.Cleanup(func() {
		a.http.CloseIdleConnections()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || strings.Contains(stderr.String(), "panic") {
			t.Errorf("the agent ended with %v: %.4000s", err, stderr.String())
		}
	})
	eventually(t, "the agent listens", func() bool {
		conn, err := a.dial(context.Background(), "", "")
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return a
}

func gzipReader(s string) (io.Reader, error) { return gzip.NewReader(strings.NewReader(s)) }
