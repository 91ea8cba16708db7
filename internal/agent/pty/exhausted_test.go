package pty_test

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/pty"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// One terminal more than the sandbox may have is refused as such, and there is
// room again when one has ended.
func TestExhausted(t *testing.T) {
	testreq.Root(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // it ends with its mounts
		err := errors.Join(
			unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,max=1"), // where /dev/ptmx looks
		)
		if err != nil {
			t.Error(err)
			return
		}
		for range 2 {
			oneOnly(t)
		}
	}()
	<-done
}

func oneOnly(t *testing.T) {
	p, err := pty.Open(pty.Default)
	if err != nil {
		t.Error(err)
		return
	}
	more, err := pty.Open(pty.Default)
	if err == nil {
		t.Error("a second terminal was opened")
		_ = errors.Join(more.Master.Close(), unix.Close(more.Program))
	} else if errs.KindOf(err) != errs.Exhausted {
		t.Errorf("a second terminal: %v", err)
	}
	if err := errors.Join(p.Master.Close(), os.NewFile(uintptr(p.Program), "program").Close()); err != nil {
		t.Error(err)
	}
}
