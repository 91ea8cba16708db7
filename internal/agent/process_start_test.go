package agent_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
)

func TestStart(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	for name, test := range map[string]struct {
		req            *pb.StartRequest
		stdout, stderr string
		end            *pb.ProcessEvent_EndEvent
	}{
		"echo":          {shell("echo out; echo err >&2"), "out\n", "err\n", ended(0, "exit status 0")},
		"silent":        {shell(""), "", "", ended(0, "exit status 0")},
		"exit code":     {shell("exit 7"), "", "", ended(7, "exit status 7")},
		"killed":        {shell("kill -9 $$"), "", "", ended(-1, "signal: killed")},
		"terminated":    {shell("kill -15 $$"), "", "", ended(-1, "signal: terminated")},
		"found in PATH": {&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "echo", Args: []string{"a b", "c"}}}, "a b c\n", "", ended(0, "exit status 0")},
		"home":          {shell("pwd"), a.home + "\n", "", ended(0, "exit status 0")},
		"no input":      {withoutInput(shell("cat; echo done")), "done\n", "", ended(0, "exit status 0")},
		"own session":   {shell("ps -o sid= -p $$ | tr -d ' ' | grep -qx $$ && echo yes"), "yes\n", "", ended(0, "exit status 0")},
		"not UTF-8":     {shell(`printf '\377\000\376'`), "\xff\x00\xfe", "", ended(0, "exit status 0")},
		"cwd":           {&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/bin/pwd", Cwd: &dir}}, dir + "\n", "", ended(0, "exit status 0")},
	} {
		t.Run(name, func(t *testing.T) {
			r := a.start(t, t.Context(), test.req).finish()
			if string(r.stdout) != test.stdout || string(r.stderr) != test.stderr {
				t.Errorf("stdout %q, stderr %q; want %q, %q", r.stdout, r.stderr, test.stdout, test.stderr)
			}
			if d := cmp.Diff(test.end, r.end, protocmp.Transform()); d != "" {
				t.Errorf("end event (-want +got):\n%s", d)
			}
		})
	}
}

// TestNoDescriptorLeaks starts a process while others have pipes and streams open.
func TestNoDescriptorLeaks(t *testing.T) {
	a := startAgent(t)
	for range 3 {
		a.start(t, t.Context(), shell("read x"))
	}
	// What the test itself was started with is not the agent's doing.
	want, err := exec.Command("ls", "/proc/self/fd").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := a.start(t, t.Context(), &pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "ls", Args: []string{"/proc/self/fd"}}}).finish().stdout
	if !bytes.Equal(got, want) {
		t.Errorf("descriptors %q, want %q", got, want)
	}
}

func TestStartRefused(t *testing.T) {
	a := startAgent(t)
	missing := "/no/such/directory"
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	config := func(c *pb.ProcessConfig) *pb.StartRequest { return &pb.StartRequest{Process: c} }
	for name, test := range map[string]struct {
		req   *pb.StartRequest
		code  connect.Code
		names string
	}{
		"no command":       {config(nil), connect.CodeInvalidArgument, "process.cmd"},
		"unknown program":  {config(&pb.ProcessConfig{Cmd: "no-such-program"}), connect.CodeNotFound, "no-such-program"},
		"missing path":     {config(&pb.ProcessConfig{Cmd: "/bin/no-such-program"}), connect.CodeNotFound, "no such program"},
		"no interpreter":   {config(&pb.ProcessConfig{Cmd: script}), connect.CodeNotFound, "interpreter"},
		"not executable":   {config(&pb.ProcessConfig{Cmd: data}), connect.CodeInvalidArgument, "permission denied"},
		"missing cwd":      {config(&pb.ProcessConfig{Cmd: "/bin/true", Cwd: &missing}), connect.CodeInvalidArgument, missing},
		"cwd is a file":    {config(&pb.ProcessConfig{Cmd: "/bin/true", Cwd: &data}), connect.CodeInvalidArgument, data},
		"bad variable":     {config(&pb.ProcessConfig{Cmd: "/bin/true", Envs: map[string]string{"A=B": ""}}), connect.CodeInvalidArgument, "A=B"},
		"NUL in arguments": {config(&pb.ProcessConfig{Cmd: "/bin/true", Args: []string{"\x00"}}), connect.CodeInvalidArgument, "NUL"},
		"wide terminal":    {inTerminal(shell(""), 65536, 1), connect.CodeInvalidArgument, "65536 columns"},
		"flat terminal":    {inTerminal(shell(""), 80, 0), connect.CodeInvalidArgument, "0 rows"},
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := a.proc.Start(t.Context(), connect.NewRequest(test.req))
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if stream.Receive() {
				t.Fatalf("event %v before the error", stream.Msg())
			}
			wantCode(t, "start", stream.Err(), test.code)
			if !strings.Contains(stream.Err().Error(), test.names) {
				t.Errorf("error %q does not say %q", stream.Err(), test.names)
			}
		})
	}
	if procs := a.list(t); len(procs) != 0 {
		t.Errorf("refused processes are listed: %v", procs)
	}
}

func TestUser(t *testing.T) {
	a := startAgent(t)
	for user, code := range map[string]connect.Code{
		"nobody-of-that-name": connect.CodeUnauthenticated,
		"../etc/passwd":       connect.CodeUnauthenticated,
	} {
		req := connect.NewRequest(shell("id -un"))
		req.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
		stream, err := a.proc.Start(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		stream.Receive()
		wantCode(t, "start as "+user, stream.Err(), code)
		_ = stream.Close()
	}
	if os.Geteuid() == 0 {
		req := connect.NewRequest(shell("id -un; id -gn; echo $USER $LOGNAME $HOME"))
		req.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("daemon:")))
		cwd := "/"
		req.Msg.Process.Cwd = &cwd
		stream, err := a.proc.Start(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(first(t, startStream{stream}).finish().stdout); got != "daemon\ndaemon\ndaemon daemon /usr/sbin\n" {
			t.Errorf("as daemon: %q", got)
		}
	}
}

func (a *testAgent) list(t *testing.T) []*pb.ProcessInfo {
	t.Helper()
	res, err := a.proc.List(t.Context(), connect.NewRequest(&pb.ListRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.GetProcesses()
}

func TestEnvironment(t *testing.T) {
	a := startAgent(t)
	a.init(t, `{"env":{"SANDBOX":"1","BOTH":"sandbox","HOME":"/tmp"}}`)
	req := shell("echo $SANDBOX $BOTH $CALL $HOME; env | cut -d= -f1 | grep -vE '^(PWD|OLDPWD|_|SHLVL)$' | sort | tr '\\n' ' '")
	req.Process.Envs = map[string]string{"BOTH": "call", "CALL": "2"}
	got := string(a.start(t, t.Context(), req).finish().stdout)
	if want := "1 call 2 /tmp\nBOTH CALL HOME LOGNAME PATH SANDBOX USER "; got != want {
		t.Errorf("environment %q, want %q", got, want)
	}
	a.init(t, `{}`)
	if got := string(a.start(t, t.Context(), shell("echo $SANDBOX")).finish().stdout); got != "\n" {
		t.Errorf("variables of an earlier init are left: %q", got)
	}
}
