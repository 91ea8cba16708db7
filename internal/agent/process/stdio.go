package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
)

// stdio is the agent's side of a process's standard streams, and the
// descriptors the process is started with.
type stdio struct {
	child [3]int
	// in is nil when the process reads from /dev/null.
	in   *input
	outs []*pipe
	// terminal says that the one in and the one out are a terminal's master;
	// program is then its other end. The agent keeps it open until the process
	// has exited: a master without users reads as ended, and a program may close
	// its terminal and open it again.
	terminal bool
	program  int
}

// pipe is the reading end of one output.
type pipe struct {
	file *os.File
	raw  syscall.RawConn
	from stream
	// ended is set at end of file; due is how much of this stream the process
	// itself had written when it exited, -1 before. Guarded by proc.mu.
	ended bool
	due   int64
}

// newPipes returns pipes for the outputs, and for the input if wanted.
func newPipes(wantInput bool) (*stdio, error) {
	s := &stdio{child: [3]int{-1, -1, -1}}
	if err := s.openInput(wantInput); err != nil {
		return nil, err
	}
	for _, from := range []stream{stdout, stderr} {
		if err := s.openOutput(from); err != nil {
			s.closeChild()
			s.closeParent()
			return nil, err
		}
	}
	return s, nil
}

func (s *stdio) openInput(want bool) (err error) {
	if !want {
		s.child[0], err = unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return os.NewSyscallError("open "+os.DevNull, err)
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	s.child[0] = fds[0]
	s.in = newInput(ours(fds[1], "stdin"))
	return nil
}

func (s *stdio) openOutput(from stream) error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	p := &pipe{file: ours(fds[0], "output"), from: from, due: -1}
	s.child[1+from] = fds[1]
	s.outs = append(s.outs, p)
	var err error
	p.raw, err = p.file.SyscallConn()
	return err
}

// ours makes our end of a pipe non-blocking, so that waiting for it takes no
// thread. The other end has its own file description and stays blocking.
func ours(fd int, name string) *os.File {
	// It cannot fail on a descriptor just made.
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// closeChild closes what the process has its own copy of.
func (s *stdio) closeChild() {
	if s.terminal {
		return
	}
	for _, fd := range s.child {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// closeParent closes the agent's side.
func (s *stdio) closeParent() {
	s.exited()
	if s.in != nil {
		s.in.close()
	}
	for _, p := range s.outs {
		_ = p.file.Close()
	}
}

// input is the writing end of a process's standard input.
type input struct {
	file *os.File
	// turn holds a token while somebody writes: writes do not mix.
	turn chan struct{}
}

func newInput(f *os.File) *input { return &input{file: f, turn: make(chan struct{}, 1)} }

// Errors of input to a process that takes none.
var (
	errNoInput = connect.NewError(connect.CodeFailedPrecondition,
		errors.New("the process's standard input is closed; start it with stdin enabled to send input"))
	errHungUp = connect.NewError(connect.CodeFailedPrecondition, errors.New("the process's terminal is closed"))
)

// write sends data, blocking while the process does not read, until ctx ends.
func (in *input) write(ctx context.Context, data []byte) error {
	if in == nil {
		return errNoInput
	}
	select {
	case in.turn <- struct{}{}:
		defer func() { <-in.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = in.file.SetWriteDeadline(unixEpoch)
	})
	_, err := in.file.Write(data)
	if !stop() {
		<-interrupted
		_ = in.file.SetWriteDeadline(noDeadline)
	}
	return inputError(ctx, err)
}

func inputError(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("write to the process's input: %w", ctx.Err())
	case errors.Is(err, syscall.EIO): // how a terminal without programs answers
		return errHungUp
	case errors.Is(err, os.ErrClosed), errors.Is(err, syscall.EPIPE):
		return errNoInput
	default:
		return fmt.Errorf("write to the process's input: %w", err)
	}
}

// close ends the input; the process reads end of file. It interrupts a write
// and may be called again.
func (in *input) close() { _ = in.file.Close() }
