package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/gen/envd/process"
)

// MaxOutput is how many bytes of each output stream a Result keeps. What comes
// after is received and dropped.
const MaxOutput = 64 << 20

// Result is how a command ended. It says nothing of streams that went to a
// writer.
type Result struct {
	Stdout, Stderr string
	// ExitCode is 128 plus the signal's number if a signal ended the command, as
	// shells have it, and -1 if the end was not seen.
	ExitCode int
	// Truncated says that a stream was longer than MaxOutput.
	Truncated bool
}

// Command is a handle of a command that was started or connected to. A
// goroutine receives its output until the command ends, the context given to
// Start ends, or Disconnect is called; Wait waits for it.
type Command struct {
	// PID is the process's number inside the sandbox.
	PID int

	commands *Commands
	cancel   context.CancelFunc
	done     chan struct{}

	// The goroutine writes these before it closes done.
	result Result
	err    error
	ended  bool // the end was seen
}

// streamContext returns a context that ends with parent but hides its deadline.
// The protocol would hand a deadline to the sandbox, which would kill the
// command at about the moment the stream ends: whether the caller sees the one
// or the other must not be left to chance.
func streamContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	stop := context.AfterFunc(parent, func() { cancel(context.Cause(parent)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// open starts a stream, waits for its first event and begins to receive.
func (c *Commands) open(ctx context.Context, cfg commandConfig, start func(context.Context) (eventStream, error)) (*Command, error) {
	ctx, cancel := streamContext(ctx)
	stream, err := start(ctx)
	if err != nil {
		err = c.sbx.fail(ctx, err)
		cancel()
		return nil, err
	}
	first, ok := stream.next()
	if !ok || first.GetStart() == nil {
		err := c.streamError(ctx, stream.Err())
		cancel()
		_ = stream.Close()
		return nil, err
	}
	cmd := &Command{PID: int(first.GetStart().GetPid()), commands: c, cancel: cancel, done: make(chan struct{})}
	go cmd.receive(ctx, stream, newOutput(cfg))
	return cmd, nil
}

// receive handles events until the stream ends.
func (c *Command) receive(ctx context.Context, stream eventStream, out *output) {
	defer close(c.done)
	end, err := out.drain(stream)
	defer func() {
		c.cancel() // first, so that nothing of a live stream is waited for
		_ = stream.Close()
	}()
	c.result = out.result()
	switch {
	case err != nil:
		c.err = err
	case end == nil:
		c.err = c.commands.streamError(ctx, stream.Err())
	default:
		stream.next() // the end of the stream, so that its connection is used again
		_ = stream.Close()
		c.ended = true
		c.result.ExitCode = exitCode(end)
		if c.result.ExitCode != 0 || end.GetError() != "" {
			c.err = &ExitError{Result: c.result, Reason: reason(end)}
		}
	}
}

// reason is why a command ended: the sandbox's own words, if it has any beyond
// the status.
func reason(end *process.ProcessEvent_EndEvent) string {
	if end.GetError() != "" {
		return end.GetError()
	}
	return end.GetStatus()
}

// signals are the names the agent gives to what can end a command, with their
// numbers on Linux.
var signals = map[string]int{
	"hangup": 1, "interrupt": 2, "quit": 3, "illegal instruction": 4, "trace/breakpoint trap": 5, "aborted": 6,
	"bus error": 7, "floating point exception": 8, "killed": 9, "user defined signal 1": 10, "segmentation fault": 11,
	"user defined signal 2": 12, "broken pipe": 13, "alarm clock": 14, "terminated": 15,
}

// exitCode returns the code of a command that ended. On the wire the code is -1
// for every signal, and only the status names it.
func exitCode(end *process.ProcessEvent_EndEvent) int {
	name, signaled := strings.CutPrefix(end.GetStatus(), "signal: ")
	name, _, _ = strings.Cut(name, " (") // "(core dumped)"
	if number, known := signals[name]; signaled && known {
		return 128 + number
	}
	return int(end.GetExitCode())
}

// probeTimeout bounds the question whether a sandbox still runs.
const probeTimeout = 2 * time.Second

// streamError says why a stream ended before its end event. A sandbox that is
// killed takes its streams with it, without a word; so ask.
func (c *Commands) streamError(ctx context.Context, err error) error {
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	err = c.sbx.fail(ctx, err)
	if ctx.Err() != nil {
		return err
	}
	probe, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if running, probeErr := c.sbx.IsRunning(probe); probeErr == nil && !running {
		return &Error{
			Code:    http.StatusBadGateway,
			Message: fmt.Sprintf("sandbox %s was killed or reached its end of life", c.sbx.ID), cause: err,
		}
	}
	return err
}

// Wait blocks until the command has ended and returns what is known about it.
// A code other than zero gives an *ExitError. If ctx ends first, Wait returns
// its error and the command and its handle go on. It may be called many times.
func (c *Command) Wait(ctx context.Context) (Result, error) {
	select {
	case <-c.done:
		return c.result, c.err
	default:
	}
	select {
	case <-c.done:
		return c.result, c.err
	case <-ctx.Done():
		return Result{ExitCode: -1}, fmt.Errorf("wait for the command: %w", context.Cause(ctx))
	}
}

// Done is closed when Wait would not block.
func (c *Command) Done() <-chan struct{} { return c.done }

// Kill ends the command with SIGKILL. If it has ended, the error is ErrNotFound.
func (c *Command) Kill(ctx context.Context) error { return c.commands.Kill(ctx, c.PID) }

// Terminate asks the command to end, with SIGTERM.
func (c *Command) Terminate(ctx context.Context) error { return c.commands.Terminate(ctx, c.PID) }

// SendStdin writes to the command's standard input (see WithStdin).
func (c *Command) SendStdin(ctx context.Context, data []byte) error {
	return c.commands.SendStdin(ctx, c.PID, data)
}

// CloseStdin ends the command's standard input.
func (c *Command) CloseStdin(ctx context.Context) error { return c.commands.CloseStdin(ctx, c.PID) }

// Disconnect stops receiving and waits until that is done. The command goes on;
// Commands.Connect finds it again.
func (c *Command) Disconnect() {
	c.cancel()
	<-c.done
}

// output collects or passes on what a command writes.
type output struct {
	stdout, stderr io.Writer
	kept           [2]keeper
}

func newOutput(cfg commandConfig) *output {
	o := &output{stdout: cfg.stdout, stderr: cfg.stderr}
	if o.stdout == nil {
		o.stdout = &o.kept[0]
	}
	if o.stderr == nil {
		o.stderr = &o.kept[1]
	}
	return o
}

// drain handles events until the end event, which it returns, or the end of
// the stream.
func (o *output) drain(stream eventStream) (*process.ProcessEvent_EndEvent, error) {
	for {
		event, ok := stream.next()
		if !ok {
			return nil, nil
		}
		if end := event.GetEnd(); end != nil {
			return end, nil
		}
		if err := o.write(event.GetData()); err != nil {
			return nil, fmt.Errorf("pass on the command's output: %w", err)
		}
	}
}

func (o *output) write(data *process.ProcessEvent_DataEvent) error {
	shown := data.GetStdout()
	if len(shown) == 0 {
		shown = data.GetPty() // an event has one of the three
	}
	if len(shown) > 0 {
		if _, err := o.stdout.Write(shown); err != nil {
			return err
		}
	}
	if b := data.GetStderr(); len(b) > 0 {
		if _, err := o.stderr.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func (o *output) result() Result {
	return Result{
		Stdout: o.kept[0].buf.String(), Stderr: o.kept[1].buf.String(), ExitCode: -1,
		Truncated: o.kept[0].dropped || o.kept[1].dropped,
	}
}

// keeper keeps the first MaxOutput bytes written to it.
type keeper struct {
	buf     bytes.Buffer
	dropped bool
}

// Write never fails.
func (k *keeper) Write(p []byte) (int, error) {
	room := min(len(p), MaxOutput-k.buf.Len())
	k.buf.Write(p[:room])
	k.dropped = k.dropped || room < len(p)
	return len(p), nil
}
