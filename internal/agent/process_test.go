package agent_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
)

func TestListAndConnect(t *testing.T) {
	a := startAgent(t)
	tag := "worker"
	req := shell("echo early; read x; echo $x")
	req.Tag = &tag
	r := a.start(t, t.Context(), req)
	r.events.Receive() // early
	want := []*pb.ProcessInfo{{Config: req.GetProcess(), Pid: r.pid, Tag: &tag}}
	if d := cmp.Diff(want, a.list(t), protocmp.Transform()); d != "" {
		t.Errorf("list (-want +got):\n%s", d)
	}
	second := a.attach(t, r.pid)
	stream, err := a.proc.Connect(t.Context(), connect.NewRequest(&pb.ConnectRequest{Process: byTag(tag)}))
	if err != nil {
		t.Fatal(err)
	}
	third := first(t, connectStream{stream})
	if err := a.send(t.Context(), r.pid, "late\n"); err != nil {
		t.Fatal(err)
	}
	for i, sub := range []*run{r, second, third} {
		if got := string(sub.finish().stdout); got != "late\n" {
			t.Errorf("subscriber %d got %q", i, got)
		}
	}
	if procs := a.list(t); len(procs) != 0 {
		t.Errorf("ended processes are listed: %v", procs)
	}
}

func TestUnknownProcess(t *testing.T) {
	a := startAgent(t)
	gone := a.start(t, t.Context(), shell("")).finish().pid
	for name, sel := range map[string]*pb.ProcessSelector{
		"ended": byPID(gone), "never": byPID(1), "tag": byTag("none"),
	} {
		wantCode(t, name+": signal", a.signal(t.Context(), sel, pb.Signal_SIGNAL_SIGKILL), connect.CodeNotFound)
		_, err := a.proc.CloseStdin(t.Context(), connect.NewRequest(&pb.CloseStdinRequest{Process: sel}))
		wantCode(t, name+": close stdin", err, connect.CodeNotFound)
		stream, err := a.proc.Connect(t.Context(), connect.NewRequest(&pb.ConnectRequest{Process: sel}))
		if err != nil {
			t.Fatal(err)
		}
		stream.Receive()
		wantCode(t, name+": connect", stream.Err(), connect.CodeNotFound)
		_ = stream.Close()
	}
	wantCode(t, "no selector", a.signal(t.Context(), nil, pb.Signal_SIGNAL_SIGKILL), connect.CodeInvalidArgument)
}

func TestStdin(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), shell("cat"))
	for _, s := range []string{"one ", "two ", "\xff\x00"} {
		if err := a.send(t.Context(), r.pid, s); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // closing again is fine
		if _, err := a.proc.CloseStdin(t.Context(), connect.NewRequest(&pb.CloseStdinRequest{Process: byPID(r.pid)})); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(r.finish().stdout); got != "one two \xff\x00" {
		t.Errorf("cat printed %q", got)
	}
}

func TestStreamInput(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), shell("head -c 6"))
	stream := a.proc.StreamInput(t.Context())
	messages := []*pb.StreamInputRequest{
		{Event: &pb.StreamInputRequest_Start{Start: &pb.StreamInputRequest_StartEvent{Process: byPID(r.pid)}}},
		{Event: &pb.StreamInputRequest_Keepalive{}},
	}
	for _, s := range []string{"abc", "def"} {
		messages = append(messages, &pb.StreamInputRequest{Event: &pb.StreamInputRequest_Data{Data: &pb.StreamInputRequest_DataEvent{
			Input: &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte(s)}},
		}}})
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndReceive(); err != nil {
		t.Fatal(err)
	}
	if got := string(r.finish().stdout); got != "abcdef" {
		t.Errorf("got %q", got)
	}
}

func TestStdinRefused(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), withoutInput(shell("sleep 60")))
	wantCode(t, "input to /dev/null", a.send(t.Context(), r.pid, "x"), connect.CodeFailedPrecondition)
	if err := a.signal(t.Context(), byPID(r.pid), pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.finish()

	deaf := a.start(t, t.Context(), shell("sleep 60"))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	wantCode(t, "input nobody reads", a.send(ctx, deaf.pid, strings.Repeat("x", 1<<20)), connect.CodeDeadlineExceeded)
	if err := a.signal(t.Context(), byPID(deaf.pid), pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	deaf.finish()
}

func TestSignalReachesChildren(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), shell("sleep 60 & echo $!; sleep 60"))
	r.events.Receive()
	child := strings.TrimSpace(string(r.events.Event().GetData().GetStdout()))
	if err := a.signal(t.Context(), byPID(r.pid), pb.Signal_SIGNAL_SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := r.finish().end.GetStatus(); got != "signal: terminated" {
		t.Errorf("status %q", got)
	}
	eventually(t, "the child is gone", func() bool { return !alive(child) })
	wantCode(t, "unspecified signal", a.signal(t.Context(), byPID(a.start(t, t.Context(), shell("cat")).pid), pb.Signal_SIGNAL_UNSPECIFIED), connect.CodeInvalidArgument)
}

// alive reports whether a process runs; a zombie does not.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("not in 5 s: %s", what)
}

// TestVanishedClient breaks the stream; the process must go on and be reachable.
func TestVanishedClient(t *testing.T) {
	a := startAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := a.start(t, ctx, shell("i=0; while read x; do i=$((i+1)); echo $i; done"))
	cancel()
	r.events.Receive()
	for range 20 {
		if err := a.send(t.Context(), r.pid, "\n"); err != nil {
			t.Fatal(err)
		}
	}
	again := a.attach(t, r.pid)
	if _, err := a.proc.CloseStdin(t.Context(), connect.NewRequest(&pb.CloseStdinRequest{Process: byPID(r.pid)})); err != nil {
		t.Fatal(err)
	}
	if got := again.finish().end.GetStatus(); got != "exit status 0" {
		t.Errorf("status %q", got)
	}
}

func TestTimeoutKills(t *testing.T) {
	a := startAgent(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r := a.start(t, ctx, shell("sleep 60"))
	watcher := a.attach(t, r.pid)
	wantCode(t, "the stream", r.drain(), connect.CodeDeadlineExceeded)
	if got := watcher.finish().end.GetStatus(); got != "signal: killed" {
		t.Errorf("the process ended with %q", got)
	}
}

// TestTimeoutKillsWithoutClient has the client leave before its timeout passes.
func TestTimeoutKillsWithoutClient(t *testing.T) {
	a := startAgent(t)
	deadline, stop := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer stop()
	ctx, leave := context.WithCancel(deadline)
	r := a.start(t, ctx, shell("sleep 60"))
	leave()
	if got := a.attach(t, r.pid).finish().end.GetStatus(); got != "signal: killed" {
		t.Errorf("the process ended with %q", got)
	}
}

// TestConnectTimeout lets only the stream end.
func TestConnectTimeout(t *testing.T) {
	a := startAgent(t)
	r := a.start(t, t.Context(), shell("read x"))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stream, err := a.proc.Connect(ctx, connect.NewRequest(&pb.ConnectRequest{Process: byPID(r.pid)}))
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "the stream", first(t, connectStream{stream}).drain(), connect.CodeDeadlineExceeded)
	if err := a.send(t.Context(), r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	r.finish()
}

func TestKeepalive(t *testing.T) {
	a := startAgent(t)
	req := connect.NewRequest(shell("read x"))
	req.Header().Set("Keepalive-Ping-Interval", "1")
	stream, err := a.proc.Start(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	r := first(t, startStream{stream})
	if !r.events.Receive() || r.events.Event().GetKeepalive() == nil {
		t.Errorf("after a second of silence: %v, %v", r.events.Event(), r.events.Err())
	}
	if err := a.send(t.Context(), r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	r.finish()
}

// TestBackground covers what a command leaves behind: the end event comes soon,
// with all the command printed itself, and what stays alive is not harmed.
func TestBackground(t *testing.T) {
	a := startAgent(t)
	file := filepath.Join(t.TempDir(), "alive")
	began := time.Now()
	r := a.start(t, t.Context(), shell("(sleep 1; echo late; echo alive >"+file+"; sleep 60) & echo $!; head -c 100000 /dev/zero")).finish()
	if took := time.Since(began); took > 900*time.Millisecond {
		t.Errorf("the end event took %s", took)
	}
	pid, _, _ := bytes.Cut(r.stdout, []byte("\n"))
	if len(r.stdout) != len(pid)+1+100000 {
		t.Errorf("%d bytes of output", len(r.stdout))
	}
	// Its write to the closed stream did not kill it.
	eventually(t, "the background process went on", func() bool { _, err := os.Stat(file); return err == nil })
	n, _ := strconv.Atoi(string(pid))
	if p, err := os.FindProcess(n); err == nil {
		_ = p.Kill()
	}
}

// TestLateOutput is output that comes from a child after the command itself has
// exited. On a busy machine the child may come too late, but not always.
func TestLateOutput(t *testing.T) {
	a := startAgent(t)
	var got []byte
	for range 10 {
		got = a.start(t, t.Context(), shell("(sleep 0.05; echo late) & echo early")).finish().stdout
		if string(got) == "early\nlate\n" {
			return
		}
	}
	t.Errorf("stdout %q", got)
}

func TestBigOutput(t *testing.T) {
	a := startAgent(t)
	const size = 50 << 20
	r := a.start(t, t.Context(), shell("head -c 52428800 /dev/zero | tr '\\0' x; echo end >&2")).finish()
	if len(r.stdout) != size || bytes.Count(r.stdout, []byte("x")) != size || string(r.stderr) != "end\n" {
		t.Errorf("%d bytes of stdout, stderr %q", len(r.stdout), r.stderr)
	}
}

// TestSlowSubscriber has one that does not read for a while: the process waits,
// and nobody misses anything.
func TestSlowSubscriber(t *testing.T) {
	a := startAgent(t)
	const size = 4 << 20
	r := a.start(t, t.Context(), shell("read x; head -c 4194304 /dev/zero"))
	slow := a.attach(t, r.pid)
	if err := a.send(t.Context(), r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	done := make(chan *run)
	go func() { _ = r.drain(); done <- r }()
	time.Sleep(300 * time.Millisecond)
	if got := len(slow.finish().stdout); got != size {
		t.Errorf("the slow subscriber got %d bytes", got)
	}
	if got := len((<-done).stdout); got != size {
		t.Errorf("the other subscriber got %d bytes", got)
	}
}

// TestNobodyListens fills far more than the ring without a subscriber.
func TestNobodyListens(t *testing.T) {
	a := startAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := a.start(t, ctx, shell("read x; head -c 10000000 /dev/zero; echo end >&2; read x"))
	cancel()
	if err := r.drain(); err != nil && connect.CodeOf(err) != connect.CodeCanceled && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := a.send(t.Context(), r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	again := a.attach(t, r.pid)
	if err := a.send(t.Context(), r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	again.finish()
}

func TestManyAtOnce(t *testing.T) {
	a := startAgent(t)
	errs := make(chan error)
	const n = 64
	for i := range n {
		go func() {
			stream, err := a.proc.Start(t.Context(), connect.NewRequest(shell("echo "+strconv.Itoa(i)+"; exit "+strconv.Itoa(i))))
			if err != nil {
				errs <- err
				return
			}
			r := &run{t: t, events: startStream{stream}}
			err = r.drain()
			if err == nil && (string(r.stdout) != strconv.Itoa(i)+"\n" || r.end.GetExitCode() != int32(i)) {
				err = errors.New("process " + strconv.Itoa(i) + " printed " + string(r.stdout) + " and ended with " + r.end.String())
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
