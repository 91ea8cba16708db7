// Package reaper starts processes and waits for them. It is the only part of
// the agent that does either: as process 1 the agent is handed every orphan of
// the sandbox, and two waiters would steal each other's children. Only the
// agent's own packages import it.
package reaper

import (
	"errors"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrExited is returned by Signal for a process that has ended.
var ErrExited = errors.New("process has exited")

// Scope says which children a Reaper may wait for.
type Scope int

const (
	// Own waits only for the processes this Reaper started.
	Own Scope = iota
	// All waits for every child, orphans included: what process 1 must do.
	// Nothing else in the program may start or wait for processes.
	All
)

// Reaper starts and reaps processes. It is safe for concurrent use.
type Reaper struct {
	scope   Scope
	wg      sync.WaitGroup
	signals chan os.Signal
	stop    chan struct{}

	// mu is held across fork and registration, so that no child is reaped
	// before it is known, and across signalling, so that no process id is
	// signalled after it is free again.
	mu       sync.Mutex
	children map[int]*Child
	closed   bool
}

// Child is one started process.
type Child struct {
	r      *Reaper
	pid    int
	onExit func(syscall.WaitStatus)
	exited bool // guarded by r.mu
}

// New returns a Reaper that works until Close.
func New(scope Scope) *Reaper {
	r := &Reaper{
		scope:    scope,
		children: map[int]*Child{},
		signals:  make(chan os.Signal, 1),
		stop:     make(chan struct{}),
	}
	signal.Notify(r.signals, syscall.SIGCHLD)
	r.wg.Go(r.run)
	return r
}

// Start forks and executes path, and calls onExit once with its wait status when
// it ends, from the reaper's goroutine: onExit must not block for long. onExit
// may run before Start has returned.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr, onExit func(syscall.WaitStatus)) (*Child, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, os.ErrClosed
	}
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		r.mu.Unlock()
		return nil, err
	}
	c := &Child{r: r, pid: pid, onExit: onExit}
	r.children[pid] = c
	r.mu.Unlock()
	return c, nil
}

// Close stops the reaper. The caller has seen every process it started end; any
// other is not waited for any more. No process can be started afterwards.
func (r *Reaper) Close() {
	r.mu.Lock()
	first := !r.closed
	r.closed = true
	r.mu.Unlock()
	if first {
		signal.Stop(r.signals)
		close(r.stop)
	}
	r.wg.Wait()
}

// PID is the process id, which is also its process group and session if it was
// started with Setsid.
func (c *Child) PID() int { return c.pid }

// SignalSession sends sig to the process group the child leads and to every
// other process of the session it leads: jobs of a shell, and programs that made
// themselves a group as timeout(1) does. It returns ErrExited when the child has
// ended. What has left the session, as daemons do, is not reached.
func (c *Child) SignalSession(sig syscall.Signal) error {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.exited {
		return ErrExited
	}
	// The group first and at once; its leader is not collected while mu is held,
	// so that the session keeps its number.
	if err := syscall.Kill(-c.pid, sig); err != nil {
		return os.NewSyscallError("kill", err)
	}
	signalSession(c.pid, sig)
	return nil
}

// run collects whatever has ended each time the kernel says something has. One
// signal may stand for many children.
func (r *Reaper) run() {
	for {
		select {
		case <-r.signals:
			r.collect()
		case <-r.stop:
			return
		}
	}
}

// collect reaps every ended child in scope.
func (r *Reaper) collect() {
	if r.scope == All {
		for pid := peek(unix.P_ALL, 0); pid > 0; pid = peek(unix.P_ALL, 0) {
			r.reap(pid)
		}
		return
	}
	r.mu.Lock()
	pids := slices.Collect(maps.Keys(r.children))
	r.mu.Unlock()
	for _, pid := range pids {
		if peek(unix.P_PID, pid) == pid {
			r.reap(pid)
		}
	}
}

// reap collects one ended child and tells who started it, if anybody here did.
func (r *Reaper) reap(pid int) {
	var status syscall.WaitStatus
	r.mu.Lock()
	got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
	for err == syscall.EINTR {
		got, err = syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
	}
	c := r.children[pid]
	// ForkExec itself collects a child whose exec failed: then nothing is left.
	if err != nil || got != pid || c == nil {
		r.mu.Unlock()
		return
	}
	c.exited = true
	delete(r.children, pid)
	r.mu.Unlock()
	c.onExit(status)
}

// peek returns the id of an ended child, 0 if there is none, and leaves it to be
// collected: its id stays taken until reap holds the lock.
func peek(idType, id int) int {
	for {
		var info unix.Siginfo
		err := unix.Waitid(idType, id, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		if err == nil {
			return pidOf(&info)
		}
		if err != unix.EINTR {
			return 0
		}
	}
}

// pidOf reads si_pid. It opens the union that follows three ints; on 64-bit
// Linux the union is aligned to 8 bytes.
func pidOf(info *unix.Siginfo) int {
	const offset = 16 - 4*(8-unsafe.Sizeof(uintptr(0)))/4
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), offset)))
}
