package agent_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
	"github.com/sandlot-dev/sandlot/internal/agent"
)

// testAgent is an agent that serves a real unix socket until the test ends.
type testAgent struct {
	socket string
	http   *http.Client
	proc   processconnect.ProcessClient
	fs     filesystemconnect.FilesystemClient
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
	a := &testAgent{socket: filepath.Join(dir, "agent.sock")}
	ln, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- agent.Serve(ctx, ln, agent.Options{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
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

func (a *testAgent) connect(t testing.TB) {
	transport := &http.Transport{DialContext: a.dial, DisableCompression: true, MaxIdleConnsPerHost: 16}
	a.http = &http.Client{Transport: transport}
	a.proc = processconnect.NewProcessClient(a.http, base, connect.WithProtoJSON())
	a.fs = filesystemconnect.NewFilesystemClient(a.http, base, connect.WithProtoJSON())
}

func (a *testAgent) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", a.socket)
}
