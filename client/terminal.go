package client

import (
	"context"
	"time"

	"github.com/sandlot-dev/sandlot/gen/envd/process"
)

// WithTerminal runs the command in a terminal of that many columns and rows; 0
// and 0 give it 80 and 24. What the terminal shows, standard error too, is the
// command's standard output. Input goes in by TypeIn; WithStdin does not matter.
func WithTerminal(cols, rows int) CommandOption {
	return commandOption(func(c *commandConfig) { c.terminal = terminalSize(cols, rows) })
}

// WithTimeLimit has the sandbox kill the command, and what stayed in its session,
// once it has run that long, whether or not anybody follows it. Wait then gives
// an *ExitError whose Reason names the limit. It counts in milliseconds; what is
// not positive is no limit.
func WithTimeLimit(d time.Duration) CommandOption {
	return commandOption(func(c *commandConfig) {
		const most = 1<<32 - 1
		switch ms := (d + time.Millisecond - 1).Milliseconds(); {
		case d <= 0:
			c.limitMs = 0
		default:
			c.limitMs = uint32(min(ms, most))
		}
	})
}

// terminalSize never turns a size that cannot be into one that can.
func terminalSize(cols, rows int) *process.PTY {
	const most = 1<<32 - 1
	clamp := func(n int) uint32 {
		if n < 0 {
			return most
		}
		return uint32(min(n, most))
	}
	return &process.PTY{Size: &process.PTY_Size{Cols: clamp(cols), Rows: clamp(rows)}}
}

// TypeIn sends data to a command's terminal as if it were typed there: "\x03" is
// Ctrl-C. It returns when the agent has taken it. A command without a terminal
// gives ErrInvalid.
func (c *Commands) TypeIn(ctx context.Context, pid int, data []byte) error {
	_, err := c.sbx.client.processes.SendInput(ctx, rpc(c.sbx, "", &process.SendInputRequest{
		Process: byPID(pid),
		Input:   &process.ProcessInput{Input: &process.ProcessInput_Pty{Pty: data}},
	}))
	return c.sbx.fail(ctx, err)
}

// Resize changes the size of a command's terminal; the programs in it get
// SIGWINCH.
func (c *Commands) Resize(ctx context.Context, pid, cols, rows int) error {
	_, err := c.sbx.client.processes.Update(ctx, rpc(c.sbx, "", &process.UpdateRequest{
		Process: byPID(pid), Pty: terminalSize(cols, rows),
	}))
	return c.sbx.fail(ctx, err)
}

// TypeIn types into the command's terminal (see WithTerminal).
func (c *Command) TypeIn(ctx context.Context, data []byte) error {
	return c.commands.TypeIn(ctx, c.PID, data)
}

// Resize changes the size of the command's terminal.
func (c *Command) Resize(ctx context.Context, cols, rows int) error {
	return c.commands.Resize(ctx, c.PID, cols, rows)
}
