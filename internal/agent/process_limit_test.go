package agent_test

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
)

// TestProcessLimit has the host allow ten processes at once.
func TestProcessLimit(t *testing.T) {
	a := startAgent(t)
	a.init(t, `{"max_processes":10}`)
	var runs []*run
	for i := range 10 {
		req := shell("cat")
		if i == 0 {
			req = inTerminal(req, 80, 24)
		}
		runs = append(runs, a.start(t, t.Context(), req))
	}
	refused := func(what string) {
		t.Helper()
		stream, err := a.proc.Start(t.Context(), connect.NewRequest(shell("")))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		stream.Receive()
		wantCode(t, what, stream.Err(), connect.CodeResourceExhausted)
		if !strings.Contains(stream.Err().Error(), "limits.processes") {
			t.Errorf("%s: %v does not name the limit", what, stream.Err())
		}
	}
	refused("the eleventh")
	refused("once more")
	for _, r := range runs[:2] { // one in a terminal, one without
		if err := a.signal(t.Context(), byPID(r.pid), pb.Signal_SIGNAL_SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.finish()
	}
	for range 3 { // what could not be started takes no place
		missing, err := a.proc.Start(t.Context(), connect.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/no/such"}}))
		if err != nil {
			t.Fatal(err)
		}
		missing.Receive()
		wantCode(t, "no program", missing.Err(), connect.CodeNotFound)
		_ = missing.Close()
	}
	for range 20 { // an ended process leaves its place at once
		a.start(t, t.Context(), shell("")).finish()
	}
	a.start(t, t.Context(), shell("cat"))
	a.start(t, t.Context(), shell("cat"))
	refused("full again")
	a.init(t, `{}`)
	a.start(t, t.Context(), shell("")).finish()
}

// TestProcessTimeout ends a process by its own limit, whoever listens.
func TestProcessTimeout(t *testing.T) {
	a := startAgent(t)
	req := shell("trap '' TERM; sh -c 'sleep 60' & sleep 60")
	req.TimeoutMs = 200
	began := time.Now()
	r := a.start(t, t.Context(), req)
	second := a.attach(t, r.pid)
	for _, sub := range []*run{r, second} {
		end := sub.finish().end
		if end.GetStatus() != "signal: killed" || end.GetExitCode() != -1 || end.GetExited() || !strings.Contains(end.GetError(), "timeout of 200ms") {
			t.Errorf("end %v", end)
		}
	}
	if took := time.Since(began); took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	eventually(t, "its children are gone", func() bool { return len(session(t, r.pid)) == 0 })
}

// TestTimeouts has both limits, the process's and its stream's; the earlier one
// decides what is said.
func TestTimeouts(t *testing.T) {
	a := startAgent(t)
	late, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	req := shell("sleep 60")
	req.TimeoutMs = 100
	if end := a.start(t, late, req).finish().end; !strings.Contains(end.GetError(), "timeout of 100ms") {
		t.Errorf("end %v", end)
	}
	soon, stopSoon := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stopSoon()
	req = shell("sleep 60")
	req.TimeoutMs = 60_000
	r := a.start(t, soon, req)
	watcher := a.attach(t, r.pid)
	wantCode(t, "the stream", r.drain(), connect.CodeDeadlineExceeded)
	if end := watcher.finish().end; end.GetStatus() != "signal: killed" || !strings.Contains(end.GetError(), "timeout of ") {
		t.Errorf("end %v", end)
	}
	// Time enough.
	req = shell("exit 3")
	req.TimeoutMs = 60_000
	if end := a.start(t, t.Context(), req).finish().end; end.GetError() != "exit status 3" {
		t.Errorf("end %v", end)
	}
}

// TestSignalsAndSessions says what a signal reaches: groups within the session,
// whatever they ignore, and not what left it.
func TestSignalsAndSessions(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), &pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/bin/bash", Args: []string{"-c", `
		set -m # every job gets a group of its own
		sh -c 'trap "" TERM; while :; do sleep 60; done' &
		setsid sh -c 'echo $$; exec sleep 60' &
		wait`}}})
	r.events.Receive()
	daemon := strings.TrimSpace(string(r.events.Event().GetData().GetStdout()))
	if err := a.signal(t.Context(), byPID(r.pid), pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.finish()
	eventually(t, "nobody of the session is left", func() bool { return len(session(t, r.pid)) == 0 })
	if !alive(daemon) {
		t.Error("the signal reached a process of another session")
	}
	pid, err := strconv.Atoi(daemon)
	if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
		t.Errorf("cannot end %q: %v", daemon, err)
	}
}
