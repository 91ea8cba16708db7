package agent_test

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
)

// events is what Start and Connect streams have in common.
type events interface {
	Receive() bool
	Event() *pb.ProcessEvent
	Err() error
	Close() error
}

type startStream struct {
	*connect.ServerStreamForClient[pb.StartResponse]
}

func (s startStream) Event() *pb.ProcessEvent { return s.Msg().GetEvent() }

type connectStream struct {
	*connect.ServerStreamForClient[pb.ConnectResponse]
}

func (s connectStream) Event() *pb.ProcessEvent { return s.Msg().GetEvent() }

// run is a started process whose start event has come.
type run struct {
	t      *testing.T
	events events
	pid    uint32
	// stdout, stderr, pty and end are filled by finish.
	stdout, stderr, pty []byte
	end                 *pb.ProcessEvent_EndEvent
}

func shell(script string) *pb.StartRequest {
	return &pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", script}}}
}

func withoutInput(req *pb.StartRequest) *pb.StartRequest {
	no := false
	req.Stdin = &no
	return req
}

// start starts a process and waits for its start event.
func (a *testAgent) start(t *testing.T, ctx context.Context, req *pb.StartRequest) *run {
	t.Helper()
	stream, err := a.proc.Start(ctx, connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	return first(t, startStream{stream})
}

// attach connects to a process and waits for the start event.
func (a *testAgent) attach(t *testing.T, pid uint32) *run {
	t.Helper()
	stream, err := a.proc.Connect(t.Context(), connect.NewRequest(&pb.ConnectRequest{Process: byPID(pid)}))
	if err != nil {
		t.Fatal(err)
	}
	return first(t, connectStream{stream})
}

func first(t *testing.T, e events) *run {
	t.Helper()
	t.Cleanup(func() { _ = e.Close() })
	if !e.Receive() {
		t.Fatalf("no start event: %v", e.Err())
	}
	pid := e.Event().GetStart().GetPid()
	if pid == 0 {
		t.Fatalf("the first event is %v, not start", e.Event())
	}
	return &run{t: t, events: e, pid: pid}
}

// finish reads the stream to its end and fails unless it ends with an end event.
func (r *run) finish() *run {
	r.t.Helper()
	if err := r.drain(); err != nil {
		r.t.Fatalf("stream: %v", err)
	}
	if r.end == nil {
		r.t.Fatal("the stream ended without an end event")
	}
	return r
}

// drain reads the stream to its end.
func (r *run) drain() error {
	for r.events.Receive() {
		e := r.events.Event()
		if r.end != nil {
			r.t.Errorf("event %v after the end event", e)
		}
		r.stdout = append(r.stdout, e.GetData().GetStdout()...)
		r.stderr = append(r.stderr, e.GetData().GetStderr()...)
		r.pty = append(r.pty, e.GetData().GetPty()...)
		r.end = e.GetEnd()
	}
	return r.events.Err()
}

func byPID(pid uint32) *pb.ProcessSelector {
	return &pb.ProcessSelector{Selector: &pb.ProcessSelector_Pid{Pid: pid}}
}

func byTag(tag string) *pb.ProcessSelector {
	return &pb.ProcessSelector{Selector: &pb.ProcessSelector_Tag{Tag: tag}}
}

func (a *testAgent) send(ctx context.Context, pid uint32, data string) error {
	_, err := a.proc.SendInput(ctx, connect.NewRequest(&pb.SendInputRequest{
		Process: byPID(pid),
		Input:   &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte(data)}},
	}))
	return err
}

func (a *testAgent) signal(ctx context.Context, sel *pb.ProcessSelector, sig pb.Signal) error {
	_, err := a.proc.SendSignal(ctx, connect.NewRequest(&pb.SendSignalRequest{Process: sel, Signal: sig}))
	return err
}

func wantCode(t *testing.T, what string, err error, want connect.Code) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != want {
		t.Errorf("%s: error %v, want code %v", what, err, want)
	}
}

func ended(code int32, status string) *pb.ProcessEvent_EndEvent {
	e := &pb.ProcessEvent_EndEvent{ExitCode: code, Exited: code >= 0, Status: status}
	if code != 0 {
		e.Error = &status
	}
	return e
}
