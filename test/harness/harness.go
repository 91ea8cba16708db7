// Package harness runs the real sandlot binary for tests: it starts a server
// on a free port with a data directory of its own, stops, kills and restarts
// it, and checks that the host is as before. It owns the processes it starts
// and their data directories. Only tests import it; every function fails the
// test instead of returning an error, unless it says otherwise.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// Options say how to start a server. The zero value is useful.
type Options struct {
	// Binary is the program; empty means SANDLOT_BIN, then bin/sandlot of the checkout.
	Binary string
	// Args are further arguments of serve.
	Args []string
	// Env are further variables, KEY=VALUE.
	Env []string
	// DataDir must be empty or of an earlier server; empty means a new one,
	// which is removed when the test ends.
	DataDir string
	// ReadyTimeout bounds the start; zero means five minutes, since a first
	// start may build the base template.
	ReadyTimeout time.Duration
	// KeepHost leaves out the check at the end that the host is as before.
	KeepHost bool
}

// Server is a running sandlot server. Its methods may be called from the
// test's goroutine only.
type Server struct {
	// URL is the server's address, http://127.0.0.1:port.
	URL string
	// Key is a valid API key.
	Key string
	// DataDir is what the server was given.
	DataDir string

	t      testing.TB
	opts   Options
	binary string
	addr   string
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
	log    *logBuffer
	owner  Owner // what was ever seen to be the server's
}

// Start starts a server and waits until it answers. When the test ends, the
// server is stopped, all it made is purged and the host is compared with how
// it was before.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	testreq.Root(t)
	s := &Server{t: t, opts: o, DataDir: o.DataDir, binary: Binary(t, o.Binary)}
	before := Snapshot(t)
	if s.DataDir == "" {
		s.DataDir = dataDir(t)
	}
	s.addr = "127.0.0.1:" + freePort(t)
	s.URL = "http://" + s.addr
	t.Cleanup(func() {
		s.Purge()
		if !o.KeepHost {
			AssertSame(t, before, s.Owner())
		}
		if t.Failed() {
			t.Logf("the server said:\n%s", s.log.tail())
		}
	})
	s.log = &logBuffer{}
	s.launch()
	return s
}

// Binary returns the program under test: path, SANDLOT_BIN, or bin/sandlot of
// the checkout. It is a requirement of the test.
func Binary(t testing.TB, path string) string {
	t.Helper()
	if path == "" {
		path = os.Getenv("SANDLOT_BIN")
	}
	if path == "" {
		_, file, _, _ := runtime.Caller(0)
		path = filepath.Join(filepath.Dir(file), "..", "..", "bin", "sandlot")
	}
	testreq.File(t, path, "build it with make build, or name it in SANDLOT_BIN")
	return path
}

// dataDir makes a directory for the server. Not t.TempDir: its removal would
// follow mounts if a purge failed, and its path is too long for unix sockets.
// Not /tmp: it may be in memory, which is not where servers keep their data.
func dataDir(t testing.TB) string {
	t.Helper()
	parent := os.Getenv("TMPDIR")
	if parent == "" {
		parent = "/var/tmp"
	}
	dir, err := os.MkdirTemp(parent, "sandlot-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if len(mountsUnder(dir)) > 0 {
			t.Errorf("mounts are left under %s, which therefore stays", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the data directory: %v", err)
		}
	})
	return dir
}

// freePort returns a port nobody listens on, below those the kernel gives to
// outgoing connections: while a server is restarted, a client that dials its
// port again and again would at last be given that very port, and keep it.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000)))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(addr)
		return port
	}
	t.Fatal("no free port from 20000 to 31999")
	return ""
}

// launch starts the process and waits until the server is ready.
func (s *Server) launch() {
	s.t.Helper()
	args := append([]string{"serve", "--data-dir", s.DataDir, "--addr", s.addr}, s.opts.Args...)
	cmd := exec.Command(s.binary, args...)
	cmd.Env = append(os.Environ(), s.opts.Env...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	// Its own group, so that Ctrl-C at the test leaves the order of things to us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start %s: %v", s.binary, err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	s.cmd, s.exited = cmd, exited
	if err := s.awaitReady(); err != nil {
		s.t.Fatalf("%v; it said:\n%s", err, s.log.tail())
	}
	s.Key = s.key()
}

// awaitReady polls /health.
func (s *Server) awaitReady() error {
	limit := s.opts.ReadyTimeout
	if limit == 0 {
		limit = 5 * time.Minute
	}
	deadline := time.After(limit)
	for {
		if s.Healthy() {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended before it was ready: %s", s.cmd.ProcessState)
		case <-deadline:
			return fmt.Errorf("the server was not ready within %s", limit)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Healthy reports whether the server answers now.
func (s *Server) Healthy() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/health", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode < 300
}

// key asks the command line for the API key, as a user would.
func (s *Server) key() string {
	s.t.Helper()
	var vars map[string]string
	out := s.CLI("env", "--json")
	if err := json.Unmarshal([]byte(out), &vars); err != nil {
		s.t.Fatalf("sandlot env --json: %v in %q", err, out)
	}
	if vars["E2B_API_KEY"] == "" {
		s.t.Fatalf("sandlot env --json names no E2B_API_KEY: %s", out)
	}
	return vars["E2B_API_KEY"]
}

// Env are the variables with which the official SDKs reach this server.
func (s *Server) Env() []string {
	return []string{
		"E2B_API_URL=" + s.URL, "E2B_SANDBOX_URL=" + s.URL, "E2B_VOLUME_API_URL=" + s.URL,
		"E2B_API_KEY=" + s.Key, s.trusted(),
	}
}

// EnvByName are the variables with which the official SDKs reach this server
// by name and over TLS, as they reach E2B's cloud.
func (s *Server) EnvByName() []string {
	_, port, _ := net.SplitHostPort(s.addr)
	return []string{"E2B_DOMAIN=localhost:" + port, "E2B_API_KEY=" + s.Key, s.trusted()}
}

// RootCertificate is the file with the certificate of the server's own CA.
func (s *Server) RootCertificate() string { return filepath.Join(s.DataDir, "ca", "root.pem") }

// trusted has Node trust the server's own CA.
func (s *Server) trusted() string { return "NODE_EXTRA_CA_CERTS=" + s.RootCertificate() }

// CLI runs the sandlot command against this server and returns its standard
// output; a failure fails the test.
func (s *Server) CLI(args ...string) string {
	s.t.Helper()
	out, err := s.TryCLI(args...)
	if err != nil {
		s.t.Fatalf("sandlot %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// TryCLI is CLI with the error returned; it holds what was said on stderr.
func (s *Server) TryCLI(args ...string) (string, error) {
	cmd := exec.Command(s.binary, args...)
	cmd.Env = append(append(os.Environ(), s.opts.Env...), "SANDLOT_DATA_DIR="+s.DataDir, "SANDLOT_ADDR="+s.addr)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// PID is the server's process id; it changes with Restart.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Running reports whether the process has not ended.
func (s *Server) Running() bool {
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// Log is the last part of what the server wrote, over all its starts.
func (s *Server) Log() string { return s.log.tail() }

// Owner says what on the host belongs to this server and its sandboxes.
func (s *Server) Owner() Owner {
	s.owner = s.owner.and(OwnerOf(s.DataDir))
	return s.owner
}

// Kill9 ends the server without giving it any chance, and waits for the end.
// Its sandboxes stay.
func (s *Server) Kill9() {
	s.t.Helper()
	s.Owner()
	if err := s.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatalf("kill the server: %v", err)
	}
	<-s.exited
}

// Stop ends the server as Ctrl-C does. Its sandboxes stay.
func (s *Server) Stop() {
	s.t.Helper()
	s.Owner()
	if !s.Running() {
		return
	}
	_ = s.cmd.Process.Signal(os.Interrupt) // it may just have ended
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		s.Kill9()
		s.t.Errorf("the server did not stop within 30 s of an interrupt; it said:\n%s", s.log.tail())
	}
}

// Restart starts the server again on the same address and data directory,
// after stopping it if it still runs.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.launch()
}

// Purge stops the server and removes everything it made on this host. Calling
// it again does nothing.
func (s *Server) Purge() {
	s.t.Helper()
	s.Stop()
	if entries, err := os.ReadDir(s.DataDir); err != nil || len(entries) == 0 {
		return
	}
	if out, err := s.TryCLI("purge", "--data-dir", s.DataDir); err != nil {
		s.t.Errorf("sandlot purge: %v\n%s", err, out)
	}
}

// logBuffer keeps the end of what a server wrote. It is safe for concurrent use.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

const logKept = 64 << 10

// Write keeps the last part of everything written.
func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if len(b.text) > 2*logKept {
		b.text = append([]byte(nil), b.text[len(b.text)-logKept:]...)
	}
	return len(p), nil
}

func (b *logBuffer) tail() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text[max(0, len(b.text)-logKept):])
}
