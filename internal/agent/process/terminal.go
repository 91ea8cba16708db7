package process

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/pty"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// terminalBuffer is more than the kernel keeps of what was written to a
// terminal, in bytes: 8 KiB on the way and 4 KiB ready to be read.
const terminalBuffer = 16 << 10

// defaultTERM is what programs take a terminal for whose client does not say.
const defaultTERM = "xterm-256color"

// newTerminal returns a terminal as all three standard streams. It belongs to
// the user if owned is set.
func newTerminal(req *pb.PTY, user account.User, owned bool) (*stdio, error) {
	size, err := startSize(req.GetSize())
	if err != nil {
		return nil, err
	}
	pair, err := pty.Open(size)
	if err != nil {
		return nil, err
	}
	s := &stdio{terminal: true, program: pair.Program, child: [3]int{pair.Program, pair.Program, pair.Program}}
	s.in = newInput(pair.Master)
	out := &pipe{file: pair.Master, from: terminal, due: -1}
	s.outs = []*pipe{out}
	out.raw, err = pair.Master.SyscallConn()
	if err == nil && owned {
		err = pair.Own(user.UID)
	}
	if err != nil {
		s.closeParent()
		return nil, err
	}
	return s, nil
}

// startSize is the size a terminal begins with. A client that has no terminal
// of its own sends none, or zeros.
func startSize(size *pb.PTY_Size) (pty.Size, error) {
	if size.GetCols() == 0 && size.GetRows() == 0 {
		return pty.Default, nil
	}
	return pty.NewSize(size.GetCols(), size.GetRows())
}

// exited closes what was kept open for a process in a terminal.
func (s *stdio) exited() {
	if s.terminal && s.program >= 0 {
		_ = unix.Close(s.program)
		s.program = -1
	}
}

// resize changes the size of a process's terminal.
func (p *proc) resize(req *pb.PTY) error {
	if !p.io.terminal {
		return errs.New(errs.Invalid, "process %d has no terminal to resize; start it with pty", p.pid)
	}
	size, err := pty.NewSize(req.GetSize().GetCols(), req.GetSize().GetRows())
	if err != nil {
		return err
	}
	err = pty.Resize(p.io.in.file, size)
	if errors.Is(err, os.ErrClosed) { // it has just ended
		return errHungUp
	}
	return err
}
