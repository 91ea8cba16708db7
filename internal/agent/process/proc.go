package process

import (
	"errors"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/internal/agent/reaper"
)

// What a process leaves behind may keep its output open (a daemon started with
// &). The end event then waits for silence of quietTime, at most quietMax.
const (
	quietTime = 200 * time.Millisecond
	quietMax  = 2 * time.Second
)

// oomScoreAdj makes the kernel kill a user's process before the agent, which is
// the whole sandbox.
const oomScoreAdj = 200

var (
	noDeadline time.Time
	unixEpoch  = time.Unix(0, 0)
)

// proc is one started process, until its end event.
//
// Lock order: proc.mu, then Service.mu, reaper's or output.mu.
type proc struct {
	config *pb.ProcessConfig
	tag    *string
	pid    int
	child  *reaper.Child
	io     *stdio
	out    *output
	// onExit and onEnd are called once, with mu held.
	onExit func()
	onEnd  func(*proc)
	limit  limit
	// done is closed at the end.
	done chan struct{}

	mu sync.Mutex
	// open counts what the end waits for: the process and its outputs.
	open     int
	exitedAt time.Time // zero while it runs
	status   syscall.WaitStatus
	quiet    *time.Timer
	// deadline kills the process when its limit is over.
	deadline *time.Timer
	timedOut bool
	ended    bool
}

// limit is how long a process may run; zero is for ever.
type limit struct {
	after time.Duration
	// stream says that it is the timeout of the stream of Start.
	stream bool
}

// earlier returns the limit that ends first; a stream's of 0 is none, as is a
// process's own.
func earlier(stream time.Duration, ownMs uint32) limit {
	own := time.Duration(ownMs) * time.Millisecond
	if stream > 0 && (own == 0 || stream < own) {
		return limit{after: stream, stream: true}
	}
	return limit{after: own}
}

// pump moves one output into the ring until its end.
func (p *proc) pump(pp *pipe) {
	defer p.pumped(pp)
	for {
		var n int
		var err error
		waitErr := pp.raw.Read(func(fd uintptr) bool {
			n, err = p.out.fill(int(fd), pp.from)
			return !errors.Is(err, syscall.EAGAIN)
		})
		switch {
		case waitErr != nil:
			return // closed by us
		case errors.Is(err, errFull):
			p.out.waitSpace()
		case err != nil || n == 0:
			return // EIO is how a terminal without users ends
		}
	}
}

func (p *proc) pumped(pp *pipe) {
	_ = pp.file.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	pp.ended = true
	p.part()
}

// exited is the reaper's call.
func (p *proc) exited(status syscall.WaitStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.exitedAt = status, time.Now()
	p.onExit()
	if p.deadline != nil {
		p.deadline.Stop()
	}
	p.io.exited()
	p.part()
	if p.ended {
		return
	}
	for _, pp := range p.io.outs {
		p.measure(pp)
	}
	p.quiet = time.AfterFunc(quietTime, p.checkQuiet)
}

// measure notes how much of an output the process itself has written: that much
// is delivered however long subscribers take.
func (p *proc) measure(pp *pipe) {
	if !pp.ended {
		// In this order: what is read between the two counts once.
		done, _ := p.out.progress(pp.from)
		pp.due = done + int64(pp.unread())
		if pp.from == terminal {
			// There the kernel counts only what it has got ready. This is too
			// much, and the end comes when the terminal is empty before.
			pp.due = done + terminalBuffer
		}
	}
}

// unread returns how much is in the pipe now.
func (pp *pipe) unread() (n int) {
	_ = pp.raw.Control(func(fd uintptr) { // fails when closed: nothing is there
		n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	})
	return n
}

// checkQuiet ends a process that has exited but whose outputs stay open.
func (p *proc) checkQuiet() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	if wait := p.quietIn(time.Now()); wait > 0 {
		p.quiet.Reset(wait)
		return
	}
	p.finish()
}

// quietIn returns how long to wait until the outputs may count as ended.
func (p *proc) quietIn(now time.Time) time.Duration {
	last := p.exitedAt
	for _, pp := range p.io.outs {
		done, at := p.out.progress(pp.from)
		// Someone else may have opened the pipe and read from it.
		if !pp.ended && done < pp.due && pp.unread() > 0 {
			return quietTime
		}
		if at.After(last) {
			last = at
		}
	}
	return min(last.Add(quietTime).Sub(now), p.exitedAt.Add(quietMax).Sub(now))
}

// part counts one part of the process as over. The caller holds mu.
func (p *proc) part() {
	p.open--
	if p.open == 0 && !p.ended {
		p.finish()
	}
}

// finish makes the end visible. It hangs a terminal up, so that what the process
// left in it does not keep it. The caller holds mu.
func (p *proc) finish() {
	p.ended = true
	if p.quiet != nil {
		p.quiet.Stop()
	}
	if p.io.in != nil {
		p.io.in.close()
	}
	p.out.close()
	p.onEnd(p)
	close(p.done)
}

// expire kills a process whose time is up.
func (p *proc) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exitedAt.IsZero() {
		p.timedOut = true
		// It cannot have been collected: exited would have come first or waits.
		_ = p.child.SignalSession(syscall.SIGKILL)
	}
}

// running reports whether the process has not exited yet.
func (p *proc) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exitedAt.IsZero()
}

// outcome returns the end event, and whether the process was killed because its
// time was up. It is for after the end.
func (p *proc) outcome() (end *pb.ProcessEvent_EndEvent, timedOut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	end = endEvent(p.status)
	// It may have ended by itself just before.
	timedOut = p.timedOut && p.status.Signal() == syscall.SIGKILL
	if timedOut {
		text := timeoutText(p.limit.after)
		end.Error = &text
	}
	return end, timedOut
}

// endEvent describes a wait status in the words of Go's os/exec, which the SDKs
// show.
func endEvent(status syscall.WaitStatus) *pb.ProcessEvent_EndEvent {
	end := &pb.ProcessEvent_EndEvent{ExitCode: int32(status.ExitStatus()), Exited: status.Exited()}
	if status.Signaled() {
		end.Status = "signal: " + status.Signal().String()
		if status.CoreDump() {
			end.Status += " (core dumped)"
		}
	} else {
		end.Status = "exit status " + strconv.Itoa(status.ExitStatus())
	}
	if end.ExitCode != 0 {
		end.Error = &end.Status
	}
	return end
}

// offerToOOMKiller makes a process the kernel's first choice when memory runs
// out. Best effort: it may be gone already.
func offerToOOMKiller(pid int) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_, _ = unix.Write(fd, strconv.AppendInt(nil, oomScoreAdj, 10))
	_ = unix.Close(fd)
}

// timeoutText names the limit in the error of a command that ran into it.
func timeoutText(limit time.Duration) string {
	return "the command was killed: it did not finish within its timeout of " + limit.Round(time.Millisecond).String()
}
