package agent_test

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
)

// TestOneEndlessLine has 100 MB without a line end arrive to the byte, by a pipe
// and by a terminal, in bounded memory. Client and agent share this process, so
// what is measured is more than the agent's.
func TestOneEndlessLine(t *testing.T) {
	a := startAgent(t)
	const size = 100_000_000
	for name, req := range map[string]*pb.StartRequest{
		"pipe":     shell("head -c 100000000 /dev/zero | tr '\\0' x"),
		"terminal": inTerminal(shell("head -c 100000000 /dev/zero | tr '\\0' x"), 80, 24),
	} {
		t.Run(name, func(t *testing.T) {
			stream, err := a.proc.Start(t.Context(), connect.NewRequest(req))
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			total, events := 0, 0
			var most uint64
			for stream.Receive() {
				data := append(stream.Msg().GetEvent().GetData().GetStdout(), stream.Msg().GetEvent().GetData().GetPty()...)
				if n := bytes.Count(data, []byte("x")); n != len(data) {
					t.Fatalf("%d of %d bytes were never written", len(data)-n, len(data))
				}
				total += len(data)
				if events++; events%500 == 0 {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most = max(most, m.HeapInuse)
				}
			}
			if err := stream.Err(); err != nil || total != size {
				t.Errorf("%d bytes, %v", total, err)
			}
			if most > 32<<20 {
				t.Errorf("%d MiB of heap in use", most>>20)
			}
			t.Logf("%d events, at most %d KiB of heap", events, most>>10)
		})
	}
}

// TestGarbageInput sends random bytes through a terminal that passes them as
// they are, and gets them back.
func TestGarbageInput(t *testing.T) {
	a := startAgent(t)
	garbage := make([]byte, 1<<20)
	var seed [32]byte
	_, _ = rand.NewChaCha8(seed).Read(garbage)
	r := a.start(t, t.Context(), inTerminal(shell("stty raw -echo; echo ready; head -c 1048576"), 80, 24))
	r.see("ready\n")
	typed := make(chan error, 1)
	go func() {
		for chunk := range slices.Chunk(garbage, 100_000) {
			_, err := a.proc.SendInput(t.Context(), connect.NewRequest(&pb.SendInputRequest{
				Process: byPID(r.pid), Input: &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: chunk}},
			}))
			if err != nil {
				typed <- err
				return
			}
		}
		typed <- nil
	}()
	r.finish()
	if err := <-typed; err != nil {
		t.Error(err)
	}
	if sha256.Sum256(r.pty) != sha256.Sum256(garbage) {
		t.Errorf("%d bytes came back, not what was sent", len(r.pty))
	}
}
