package agent_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
	"github.com/sandlot-dev/sandlot/internal/agent"
)

// testAgent is an agent that serves a real unix socket until the test ends.
type testAgent struct {
	socket string
	// home is the home directory of the agent's own user.
	home string
	http *http.Client
	proc processconnect.ProcessClient
	fs   filesystemconnect.FilesystemClient
}

// base is the URL of the agent; the transport ignores the host.
const base = "http://agent"

func startAgent(t testing.TB) *testAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "sandlot") // short: a socket path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &testAgent{socket: filepath.Join(dir, "agent.sock"), home: filepath.Join(dir, "home")}
	opts := a.accounts(t, dir)
	opts.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	ln, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- agent.Serve(ctx, ln, opts)
	}()
	a.connect(t)
	t.Cleanup(func() {
		a.http.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return a
}

// accounts gives the agent's user a home directory of its own.
func (a *testAgent) accounts(t testing.TB, dir string) agent.Options {
	t.Helper()
	name := "tester"
	if os.Geteuid() == 0 {
		name = "root"
	}
	passwd := fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n", name, os.Geteuid(), os.Getegid(), a.home)
	opts := agent.Options{PasswdFile: filepath.Join(dir, "passwd"), GroupFile: filepath.Join(dir, "group")}
	err := errors.Join(
		os.Mkdir(a.home, 0o755),
		os.WriteFile(opts.PasswdFile, []byte(passwd), 0o644),
		os.WriteFile(opts.GroupFile, []byte("root:x:0:\ndaemon:x:1:\n"), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	return opts
}

func (a *testAgent) connect(t testing.TB) {
	t.Helper()
	transport := &http.Transport{DialContext: a.dial, DisableCompression: true, MaxIdleConnsPerHost: 16}
	a.http = &http.Client{Transport: transport}
	a.proc = processconnect.NewProcessClient(a.http, base, connect.WithProtoJSON())
	a.fs = filesystemconnect.NewFilesystemClient(a.http, base, connect.WithProtoJSON())
}

// dial connects, and waits while the queue of the agent's socket is full.
func (a *testAgent) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", a.socket)
		if !errors.Is(err, unix.EAGAIN) {
			return conn, err
		}
		time.Sleep(time.Millisecond)
	}
}
