package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
)

// inTerminal makes a request one for a process in a terminal.
func inTerminal(req *pb.StartRequest, cols, rows uint32) *pb.StartRequest {
	req.Pty = &pb.PTY{Size: &pb.PTY_Size{Cols: cols, Rows: rows}}
	return req
}

// bash is the shell the SDKs start in a terminal, without the machine's own
// start-up files.
func bash() *pb.StartRequest {
	return inTerminal(&pb.StartRequest{Process: &pb.ProcessConfig{
		Cmd: "/bin/bash", Args: []string{"--noprofile", "--norc", "-i"}, Envs: map[string]string{"PS1": "ready> ", "TERM": "dumb"},
	}}, 80, 24)
}

func (a *testAgent) typeIn(t *testing.T, pid uint32, text string) {
	t.Helper()
	_, err := a.proc.SendInput(t.Context(), connect.NewRequest(&pb.SendInputRequest{
		Process: byPID(pid),
		Input:   &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: []byte(text)}},
	}))
	if err != nil {
		t.Fatalf("type %q: %v", text, err)
	}
}

func (a *testAgent) resize(ctx context.Context, pid, cols, rows uint32) error {
	_, err := a.proc.Update(ctx, connect.NewRequest(&pb.UpdateRequest{
		Process: byPID(pid), Pty: &pb.PTY{Size: &pb.PTY_Size{Cols: cols, Rows: rows}},
	}))
	return err
}

// see reads until the terminal has shown text, and forgets what came before and
// the text itself.
func (r *run) see(text string) string {
	r.t.Helper()
	for {
		if before, after, ok := bytes.Cut(r.pty, []byte(text)); ok {
			r.pty = after
			return string(before)
		}
		if !r.events.Receive() {
			r.t.Fatalf("the stream ended (%v) before %q came; after the last match: %q", r.events.Err(), text, r.pty)
		}
		if end := r.events.Event().GetEnd(); end != nil {
			r.t.Fatalf("end event %v before %q came; after the last match: %q", end, text, r.pty)
		}
		r.pty = append(r.pty, r.events.Event().GetData().GetPty()...)
	}
}

func TestTerminal(t *testing.T) {
	a := startAgent(t)
	for name, test := range map[string]struct{ script, want string }{
		"streams":     {"for fd in 0 1 2; do test -t $fd || exit 1; done; echo to stderr >&2", "to stderr\r\n"},
		"size":        {"stty size", "33 101\r\n"},
		"controlling": {`read -r pid rest </proc/self/stat; set -- $(sed 's/.*) //' /proc/$$/stat); test $3 = $4 && test $4 = $6 && test $5 != 0 && echo leader`, "leader\r\n"},
		"kind":        {"echo $TERM", "xterm-256color\r\n"},
		"mode":        {"stat -c %u $(tty)", strconv.Itoa(os.Geteuid()) + "\r\n"},
		"nothing":     {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := a.start(t, t.Context(), inTerminal(shell(test.script), 101, 33)).finish()
			if string(r.pty) != test.want || len(r.stdout)+len(r.stderr) != 0 || r.end.GetStatus() != "exit status 0" {
				t.Errorf("terminal %q, stdout %q, stderr %q, %v; want %q", r.pty, r.stdout, r.stderr, r.end, test.want)
			}
		})
	}
	r := a.start(t, t.Context(), &pb.StartRequest{Process: shell("stty size").GetProcess(), Pty: &pb.PTY{}}).finish()
	if string(r.pty) != "24 80\r\n" {
		t.Errorf("a terminal without a size has %q", r.pty)
	}
}

func TestTerminalEcho(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), inTerminal(shell("cat"), 80, 24))
	for _, word := range []string{"one", "zwölf"} {
		a.typeIn(t, r.pid, word+"\n")
		if before := r.see(word + "\r\n" + word + "\r\n"); before != "" {
			t.Errorf("%q before the echo", before)
		}
	}
	a.typeIn(t, r.pid, "\x04")
	if got := r.finish(); got.end.GetStatus() != "exit status 0" || len(got.pty) != 0 {
		t.Errorf("end %v after Ctrl-D, terminal %q", got.end, got.pty)
	}
}

func TestTerminalStreamInput(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), inTerminal(shell("cat"), 80, 24))
	stream := a.proc.StreamInput(t.Context())
	if err := stream.Send(&pb.StreamInputRequest{Event: &pb.StreamInputRequest_Start{Start: &pb.StreamInputRequest_StartEvent{Process: byPID(r.pid)}}}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"a", "b\n", "\x04"} {
		err := stream.Send(&pb.StreamInputRequest{Event: &pb.StreamInputRequest_Data{Data: &pb.StreamInputRequest_DataEvent{
			Input: &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: []byte(s)}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndReceive(); err != nil {
		t.Fatal(err)
	}
	if got := string(r.finish().pty); got != "ab\r\nab\r\n" {
		t.Errorf("got %q", got)
	}
}

// TestTerminalJobs is an interactive shell: prompt, jobs, Ctrl-C, Ctrl-Z, exit code.
func TestTerminalJobs(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), bash())
	r.see("ready> ")
	a.typeIn(t, r.pid, "sh -c 'echo began; read x; echo not this'\n")
	r.see("\r\nbegan\r\n")
	a.typeIn(t, r.pid, "\x03")
	r.see("ready> ")
	a.typeIn(t, r.pid, "echo code=$?\n")
	r.see("\r\ncode=130\r\n")
	a.typeIn(t, r.pid, "sh -c 'echo again; read x'\n")
	r.see("\r\nagain\r\n")
	a.typeIn(t, r.pid, "\x1a")
	r.see("Stopped")
	r.see("ready> ")
	a.typeIn(t, r.pid, "kill %1; bg >/dev/null; wait; jobs; exit 7\n")
	if got := r.finish().end; got.GetExitCode() != 7 || !got.GetExited() {
		t.Errorf("end %v", got)
	}
}

func TestTerminalResize(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), inTerminal(shell("trap 'stty size' WINCH; echo trapped; while :; do read x; done"), 80, 24))
	r.see("trapped\r\n")
	for _, size := range [][2]uint32{{132, 50}, {1, 1}, {65535, 65535}} {
		if err := a.resize(t.Context(), r.pid, size[0], size[1]); err != nil {
			t.Fatal(err)
		}
		r.see(strconv.Itoa(int(size[1])) + " " + strconv.Itoa(int(size[0])) + "\r\n")
	}
	for _, size := range [][2]uint32{{0, 0}, {80, 0}, {65536, 1}, {1, 1 << 31}} {
		wantCode(t, "a size that cannot be", a.resize(t.Context(), r.pid, size[0], size[1]), connect.CodeInvalidArgument)
	}
	if err := a.signal(t.Context(), byPID(r.pid), pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := r.finish().end; got.GetStatus() != "signal: killed" || got.GetExitCode() != -1 {
		t.Errorf("end %v", got)
	}
	wantCode(t, "after the end", a.resize(t.Context(), r.pid, 80, 24), connect.CodeNotFound)
}

func TestTerminalRefused(t *testing.T) {
	a := startAgent(t)
	term := a.start(t, t.Context(), inTerminal(shell("cat"), 80, 24))
	plain := a.start(t, t.Context(), shell("cat"))
	wantCode(t, "stdin to a terminal", a.send(t.Context(), term.pid, "x"), connect.CodeInvalidArgument)
	_, err := a.proc.SendInput(t.Context(), connect.NewRequest(&pb.SendInputRequest{
		Process: byPID(plain.pid), Input: &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: []byte("x")}},
	}))
	wantCode(t, "keys to a pipe", err, connect.CodeInvalidArgument)
	wantCode(t, "resize a pipe", a.resize(t.Context(), plain.pid, 80, 24), connect.CodeInvalidArgument)
	_, err = a.proc.CloseStdin(t.Context(), connect.NewRequest(&pb.CloseStdinRequest{Process: byPID(term.pid)}))
	wantCode(t, "close a terminal's input", err, connect.CodeInvalidArgument)
	for _, r := range []*run{term, plain} {
		if err := a.signal(t.Context(), byPID(r.pid), pb.Signal_SIGNAL_SIGKILL); err != nil {
			t.Fatal(err)
		}
		r.finish()
	}
}

// TestTerminalLines has 10,000 lines arrive to the byte, also at a reader who
// takes its time.
func TestTerminalLines(t *testing.T) {
	a := startAgent(t)
	var want bytes.Buffer
	for i := range 10_000 {
		want.WriteString("line " + strconv.Itoa(i) + " " + strings.Repeat("x", 60) + "\r\n")
	}
	line := strings.Repeat("x", 60)
	script := "awk 'BEGIN { for (i = 0; i < 10000; i++) print \"line\", i, \"" + line + "\" }'"
	for name, pause := range map[string]time.Duration{"fast": 0, "slow": 10 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			r := a.start(t, t.Context(), inTerminal(shell(script), 80, 24))
			time.Sleep(10 * pause) // a reader that is slow on purpose, not a condition
			r.finish()
			if sha256.Sum256(r.pty) != sha256.Sum256(want.Bytes()) {
				t.Errorf("%d bytes, want %d", len(r.pty), want.Len())
			}
			t.Logf("10,000 lines in %s", time.Since(began))
		})
	}
}

// TestTerminalLeftOpen ends a shell whose background job keeps the terminal: the
// end comes soon, after all that was written, and the terminal is hung up.
func TestTerminalLeftOpen(t *testing.T) {
	a := startAgent(t)
	began := time.Now()
	r := a.start(t, t.Context(), inTerminal(shell("trap '' HUP; sh -c 'while sleep 0.1; do echo still || exit; done' & echo $!; head -c 300000 /dev/zero | tr '\\0' x"), 80, 24)).finish()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the end event took %s", took)
	}
	if got := bytes.Count(r.pty, []byte("x")); got != 300_000 {
		t.Errorf("%d bytes of output, want 300000", got)
	}
	pid, _, _ := strings.Cut(string(r.pty), "\r\n")
	eventually(t, "writing to the terminal failed", func() bool { return !alive(pid) })
}

// TestKillReachesJobs kills a shell with jobs in groups of their own.
func TestKillReachesJobs(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), bash())
	r.see("ready> ")
	a.typeIn(t, r.pid, "sh -c 'trap \"\" TERM HUP; while :; do sleep 60; done' & echo job=$!=\n")
	r.see("\r\njob=")
	r.see("ready> ")
	a.typeIn(t, r.pid, "sh -c 'trap \"\" TERM HUP INT; echo fg=$$=; while :; do sleep 60; done'\n")
	r.see("\r\nfg=")
	if err := a.signal(t.Context(), byPID(r.pid), pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := r.finish().end.GetStatus(); got != "signal: killed" {
		t.Errorf("status %q", got)
	}
	eventually(t, "nobody of the session is left", func() bool { return len(session(t, r.pid)) == 0 })
}

// session returns the living processes of a session.
func session(t *testing.T, id uint32) (members []string) {
	t.Helper()
	procs, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		stat, err := os.ReadFile("/proc/" + p.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 3 && fields[3] == strconv.Itoa(int(id)) && fields[0] != "Z" {
			members = append(members, p.Name())
		}
	}
	return members
}
