package agent_test

import (
	"os/exec"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
)

// BenchmarkForkExecWait is the floor: what the machine needs for one process
// without an agent.
func BenchmarkForkExecWait(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("/bin/true").Run(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommand is one command through the agent, from request to end event.
func BenchmarkCommand(b *testing.B) {
	a := startAgent(b)
	noInput := false
	for b.Loop() {
		stream, err := a.proc.Start(b.Context(), connect.NewRequest(&pb.StartRequest{
			Process: &pb.ProcessConfig{Cmd: "/bin/true"}, Stdin: &noInput,
		}))
		if err != nil {
			b.Fatal(err)
		}
		var end *pb.ProcessEvent_EndEvent
		for stream.Receive() {
			end = stream.Msg().GetEvent().GetEnd()
		}
		if err := stream.Err(); err != nil || end.GetStatus() != "exit status 0" {
			b.Fatalf("end %v, error %v", end, err)
		}
		_ = stream.Close()
	}
}

// BenchmarkOutput is how fast a process's output arrives.
func BenchmarkOutput(b *testing.B) {
	a := startAgent(b)
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		stream, err := a.proc.Start(b.Context(), connect.NewRequest(&pb.StartRequest{
			Process: &pb.ProcessConfig{Cmd: "head", Args: []string{"-c", "67108864", "/dev/zero"}},
		}))
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for stream.Receive() {
			n += len(stream.Msg().GetEvent().GetData().GetStdout())
		}
		if stream.Err() != nil || n != size {
			b.Fatal(n, stream.Err())
		}
	}
}
