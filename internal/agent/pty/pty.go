// Package pty opens pseudo-terminals with the kernel's own calls: the usual
// library imports os/exec, which the agent must not link. Only the agent's own
// packages import it.
package pty

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// master is where pseudo-terminals come from; in a sandbox it belongs to the
// sandbox's own devpts.
const master = "/dev/ptmx"

// Size is a terminal's size in characters.
type Size struct{ Cols, Rows uint16 }

// Default is the size of a terminal nobody gave one.
var Default = Size{Cols: 80, Rows: 24}

// NewSize checks a size from outside. The error has kind Invalid.
func NewSize(cols, rows uint32) (Size, error) {
	const most = 1<<16 - 1
	if cols == 0 || rows == 0 || cols > most || rows > most {
		return Size{}, errs.New(errs.Invalid, "a terminal cannot have %d columns and %d rows; both must be from 1 to %d", cols, rows, most)
	}
	return Size{Cols: uint16(cols), Rows: uint16(rows)}, nil
}

// Pair is both ends of a pseudo-terminal. The caller closes both.
type Pair struct {
	// Master is the end for whoever shows the terminal. It does not block.
	Master *os.File
	// Program is the descriptor for what runs in the terminal. It blocks, is
	// closed on exec, and is nobody's controlling terminal yet.
	Program int
}

// Open returns a new pseudo-terminal. The error has kind Exhausted when the
// sandbox has as many as it may.
func Open(size Size) (*Pair, error) {
	fd, err := unix.Open(master, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(err)
	}
	p := &Pair{Program: -1}
	if p.Program, err = program(fd, size); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	p.Master = os.NewFile(uintptr(fd), master)
	return p, nil
}

// program opens the other end of a fresh master.
func program(fd int, size Size) (int, error) {
	// A new terminal is locked until whoever made it has prepared it.
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return -1, os.NewSyscallError("unlock terminal", err)
	}
	if err := setSize(fd, size); err != nil {
		return -1, err
	}
	// By its master and not by name: /dev/pts may be anything in there.
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, flags)
	if errno != 0 {
		return -1, os.NewSyscallError("open terminal", errno)
	}
	return int(peer), nil
}

func openError(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return errs.Wrap(err, errs.Exhausted, "the sandbox has as many terminals as it may; end one first")
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return errs.Wrap(err, errs.Unsupported, "the sandbox has no pseudo-terminals: %s: %v", master, err)
	default:
		return fmt.Errorf("open %s: %w", master, err)
	}
}

// Own gives the terminal to a user; its group stays the one the file system
// gives all terminals.
func (p *Pair) Own(uid uint32) error {
	return os.NewSyscallError("fchown terminal", unix.Fchown(p.Program, int(uid), -1))
}

// Resize changes the size of a master's terminal. The programs in its foreground
// get SIGWINCH if it is another than before. The error of a closed master is
// os.ErrClosed.
func Resize(m *os.File, size Size) error {
	raw, err := m.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = setSize(int(fd), size) }); err != nil {
		return os.ErrClosed // in words of the runtime's own, which nobody can look for
	}
	return failed
}

func setSize(fd int, size Size) error {
	err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: size.Cols, Row: size.Rows})
	return os.NewSyscallError("set terminal size", err)
}
