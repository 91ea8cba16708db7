package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// reconnect is how often a shell makes its sandbox live on; each time it lives at
// least another five minutes.
const reconnect = time.Minute

func (a *app) sandboxShellCommand() *cobra.Command {
	var flags commandFlags
	cmd := &cobra.Command{
		Use:     "shell [flags] ID [-- COMMAND [ARG...]]",
		Aliases: []string{"connect"},
		Short:   "Open a terminal in a sandbox",
		Long: `Open a terminal in a sandbox with a login shell, or with a command. The sandbox
lives on while the terminal is open. The exit code is the shell's. Closing this
terminal ends what runs in that one; the sandbox stays.`,
		Example: `  sandlot sandbox shell i8f3k2…
  sandlot sandbox shell --user root i8f3k2… -- top`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := flags.options()
			if err != nil {
				return err
			}
			return a.shell(cmd.Context(), args, opts)
		},
	}
	flags.add(cmd)
	return cmd
}

// errNoTerminal is what a shell without a terminal is told.
var errNoTerminal = errs.New(errs.Invalid, "standard input is not a terminal").
	WithHint("run a command without one: sandlot sandbox exec ID -- COMMAND")

func (a *app) shell(ctx context.Context, args []string, opts []client.CommandOption) error {
	tty, ok := a.stdio.In.(*os.File)
	if !ok || !isTerminal(tty) {
		return errNoTerminal
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	sbx, err := c.Connect(ctx, args[0])
	if err != nil {
		return err
	}
	argv := []string{"/bin/bash", "-i", "-l"}
	if len(args) > 1 {
		argv = execArgs(args)
	}
	defer repeat(ctx, reconnect, func(ctx context.Context) { _, _ = c.Connect(ctx, sbx.ID) })()
	return a.inTerminal(ctx, tty, sbx, argv, opts)
}

// inTerminal runs a command in a terminal that is shown on this one.
func (a *app) inTerminal(ctx context.Context, tty *os.File, sbx *client.Sandbox, argv []string, opts []client.CommandOption) error {
	cols, rows, err := terminalSize(tty)
	if err != nil {
		return err
	}
	cmd, err := sbx.Commands.StartExec(ctx, argv, append([]client.CommandOption{
		client.WithTerminal(cols, rows), client.WithStdout(a.stdio.Out), client.WithVars(a.terminalVars()),
	}, opts...)...)
	if err != nil {
		return err
	}
	result, err := a.attach(ctx, tty, cmd)
	if _, ended := errors.AsType[*client.ExitError](err); err == nil || ended {
		if result.ExitCode != 0 {
			return exitCodeError(result.ExitCode)
		}
		return nil
	}
	killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	_ = cmd.Kill(killCtx) // its sandbox may be gone already
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// terminalVars are the variables programs in a terminal look for.
func (a *app) terminalVars() map[string]string {
	vars := map[string]string{"TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
	if kind := a.getenv("TERM"); kind != "" && kind != "dumb" {
		vars["TERM"] = kind
	}
	return vars
}

// attach passes keys and sizes to a command until it ends. Meanwhile the local
// terminal leaves all keys, Ctrl-C too, to the remote one.
func (a *app) attach(ctx context.Context, tty *os.File, cmd *client.Command) (client.Result, error) {
	restore, err := makeRaw(tty)
	if err != nil {
		return client.Result{ExitCode: -1}, err
	}
	defer restore()
	stopSizes := passSizes(ctx, tty, cmd)
	defer stopSizes()
	stopKeys := passKeys(ctx, tty, cmd)
	defer stopKeys()
	return cmd.Wait(context.WithoutCancel(ctx)) // its stream ends with ctx
}

// keyWriter types what is written to it into a command's terminal.
type keyWriter struct {
	ctx context.Context // of the one copy this writer is made for
	cmd *client.Command
}

// Write blocks until the agent has taken p.
func (w keyWriter) Write(p []byte) (int, error) {
	if err := w.cmd.TypeIn(w.ctx, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// passKeys copies what is typed until stop, which waits unless the copying is
// stuck in a read that nothing can interrupt; the program is about to end then.
func passKeys(ctx context.Context, tty *os.File, cmd *client.Command) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A command that has ended takes no keys, and its stream says so.
		_, _ = io.Copy(keyWriter{ctx, cmd}, onlyReader{tty})
	}()
	return func() {
		cancel()
		if tty.SetReadDeadline(time.Now()) != nil {
			return
		}
		<-done
		_ = tty.SetReadDeadline(time.Time{})
	}
}

// onlyReader keeps io.Copy from moving bytes behind our back.
type onlyReader struct{ io.Reader }

// passSizes tells the command whenever the local terminal changes its size.
func passSizes(ctx context.Context, tty *os.File, cmd *client.Command) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				if cols, rows, err := terminalSize(tty); err == nil && cols > 0 && rows > 0 {
					_ = cmd.Resize(ctx, cols, rows) // it may have ended
				}
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		cancel()
		<-done
	}
}

// terminalSize returns the size of a local terminal, which may be zeros.
func terminalSize(tty *os.File) (cols, rows int, err error) {
	err = control(tty, func(fd int) error {
		size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err == nil {
			cols, rows = int(size.Col), int(size.Row)
		}
		return os.NewSyscallError("terminal size", err)
	})
	return cols, rows, err
}

// makeRaw has a terminal pass every byte as it is, and returns how to undo that.
func makeRaw(tty *os.File) (restore func(), err error) {
	var before unix.Termios
	err = control(tty, func(fd int) error {
		now, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return os.NewSyscallError("terminal mode", err)
		}
		before = *now
		raw := rawMode(before)
		return os.NewSyscallError("raw terminal mode", unix.IoctlSetTermios(fd, unix.TCSETS, &raw))
	})
	return func() {
		_ = control(tty, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETS, &before) })
	}, err
}

// rawMode is what cfmakeraw(3) says.
func rawMode(t unix.Termios) unix.Termios {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB
	t.Cflag |= unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return t
}

// control calls do with a file's descriptor and leaves its mode alone.
func control(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
