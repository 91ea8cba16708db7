package edge

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
	"github.com/sandlot-dev/sandlot/internal/agent"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// unixDialer leads to an agent's own socket.
type unixDialer struct {
	dialer
	socket string
}

func (d unixDialer) DialAgent(ctx context.Context, _ sandbox.ID) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
}

// agentSocket serves a real agent until the test ends.
func agentSocket(t *testing.T) string {
	t.Helper()
	t.Chdir(t.TempDir()) // a socket's path has at most 107 bytes
	ln, err := net.Listen("unix", "agent.sock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Serve(ctx, ln, agent.Options{}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return filepath.Base(ln.Addr().String())
}

// envelope is a message of Connect's streams as a chunk of a body.
func envelope(json string) string {
	m := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(json)))
	return fmt.Sprintf("%x\r\n%s%s\r\n", len(m)+len(json), m, json)
}

const inputHead = "POST /process.Process/StreamInput" + toAgentHead +
	"Content-Type: application/connect+json\r\nConnect-Protocol-Version: 1\r\n" + chunked

// Errors of a stream of input reach a client that keeps it open.
func TestStreamInputErrors(t *testing.T) {
	addr := startAny(t, unixDialer{socket: agentSocket(t)})
	for first, says := range map[string]string{
		`{"start":{"process":{"pid":4000000}}}`:   "not_found",
		`{"data":{"input":{"stdin":"eA=="}}}`:     "invalid_argument",
		`{"start":{"process":{"pid":"a number"}}`: "invalid_argument",
	} {
		_, r := converse(t, addr, inputHead+envelope(first))
		wantAnswer(t, r, http.StatusOK, says)
	}
}

// So does the end of the process it types to.
func TestStreamInputAfterTheEnd(t *testing.T) {
	addr := startAny(t, unixDialer{socket: agentSocket(t)})
	client := processconnect.NewProcessClient(http.DefaultClient, "http://"+addr)
	start := connect.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", "read line"}}, Stdin: new(true)})
	start.Header().Set(idHeader, string(liveID))
	start.Header().Set(tokenHeader, token)
	events, err := client.Start(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if !events.Receive() {
		t.Fatal(events.Err())
	}
	const line = `{"data":{"input":{"stdin":"eAo="}}}`
	named := fmt.Sprintf(`{"start":{"process":{"pid":%d}}}`, events.Msg().GetEvent().GetStart().GetPid())
	conn, r := converse(t, addr, inputHead+envelope(named)+envelope(line))
	for events.Receive() {
		continue // until the process has ended
	}
	_, _ = io.WriteString(conn, envelope(line))
	wantAnswer(t, r, http.StatusOK, `"error":`)
}

func startAny(t *testing.T, d Dialer) string {
	t.Helper()
	e := newEdge(t, control.Sandbox{AccessToken: token}, dialer{}, 0)
	e.dialer = d
	return serve(t, e.ServeHTTP)
}
