package pty_test

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/pty"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func TestPair(t *testing.T) {
	p, err := pty.Open(pty.Size{Cols: 7, Rows: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Master.Close()
	program := os.NewFile(uintptr(p.Program), "program")
	defer program.Close()
	size := func() pty.Size {
		t.Helper()
		got, err := unix.IoctlGetWinsize(p.Program, unix.TIOCGWINSZ)
		if err != nil {
			t.Fatal(err)
		}
		return pty.Size{Cols: got.Col, Rows: got.Row}
	}
	if got := size(); got != (pty.Size{Cols: 7, Rows: 5}) {
		t.Errorf("size %v", got)
	}
	if err := pty.Resize(p.Master, pty.Size{Cols: 65535, Rows: 1}); err != nil || size() != (pty.Size{Cols: 65535, Rows: 1}) {
		t.Errorf("size %v after Resize, %v", size(), err)
	}
	if _, err := io.WriteString(program, "out\n"); err != nil {
		t.Fatal(err)
	}
	var buf [16]byte
	if n, err := p.Master.Read(buf[:]); err != nil || string(buf[:n]) != "out\r\n" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if err := p.Own(uint32(os.Geteuid())); err != nil {
		t.Error(err)
	}
}

// FuzzSize accepts exactly what the kernel's 16 bits hold.
func FuzzSize(f *testing.F) {
	for _, s := range [][2]uint32{{80, 24}, {0, 1}, {1, 0}, {65535, 65535}, {65536, 1}, {1, 1 << 31}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, cols, rows uint32) {
		got, err := pty.NewSize(cols, rows)
		good := cols > 0 && rows > 0 && cols < 1<<16 && rows < 1<<16
		switch {
		case good != (err == nil):
			t.Errorf("%d×%d: %v", cols, rows, err)
		case good && (uint32(got.Cols) != cols || uint32(got.Rows) != rows):
			t.Errorf("%d×%d became %v", cols, rows, got)
		case !good && errs.KindOf(err) != errs.Invalid:
			t.Errorf("%d×%d: kind %v", cols, rows, errs.KindOf(err))
		}
	})
}
