package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// commandFlags are how a command inside a sandbox runs.
type commandFlags struct {
	env       []string
	user, cwd string
}

func (f *commandFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.env, "env", "e", nil, "set `KEY=VALUE` for the command; may be repeated")
	cmd.Flags().StringVarP(&f.user, "user", "u", "", "run as this user inside (default: the template's)")
	cmd.Flags().StringVar(&f.cwd, "cwd", "", "run in this directory inside (default: the user's home)")
	cmd.Flags().SetInterspersed(false) // what follows the first word belongs to the command
}

func (f *commandFlags) options() ([]client.CommandOption, error) {
	vars, err := parsePairs("--env", f.env)
	if err != nil {
		return nil, err
	}
	opts := []client.CommandOption{client.WithVars(vars)}
	if f.user != "" {
		opts = append(opts, client.AsUser(f.user))
	}
	if f.cwd != "" {
		opts = append(opts, client.InDir(f.cwd))
	}
	return opts, nil
}

func (a *app) runCommand() *cobra.Command {
	var flags commandFlags
	var template string
	var timeout config.Duration
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Run one command in a fresh sandbox and remove the sandbox",
		Long: `Run one command in a fresh sandbox and remove the sandbox. Output is passed on
as it comes, standard input is passed in unless it is a terminal, and the exit
code is the command's. No shell is involved: write sh -c '...' for one.`,
		Example: `  sandlot run -- python3 -c 'print(1)'
  sandlot run --timeout 30s --env NAME=world -- sh -c 'echo hello $NAME'
  tar c src | sandlot run -- sh -c 'tar x && ls src'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := flags.options()
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.runOnce(cmd.Context(), c, oneRun{template: template, timeout: timeout.Std(), argv: args, opts: opts})
		},
	}
	cmd.Flags().StringVarP(&template, "template", "t", "base", "make the sandbox from this template")
	cmd.Flags().Var(&timeout, "timeout", "end the command after this long, e.g. 30s (default: no limit)")
	cmd.Flags().Lookup("timeout").DefValue = "0" // keeps "(default 0s)" out of the help
	flags.add(cmd)
	return cmd
}

func (a *app) sandboxExecCommand() *cobra.Command {
	var flags commandFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] ID -- COMMAND [ARG...]",
		Short: "Run a command in a sandbox",
		Long: `Run a command in a sandbox, which then lives at least another 5 minutes. Streams
and the exit code are passed on as by: sandlot run`,
		Example: `  sandlot sandbox exec i8f3k2… -- ls -l
  sandlot sandbox exec --user root i8f3k2… -- sh -c 'id; uptime'`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := flags.options()
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			sbx, err := c.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.passThrough(cmd.Context(), sbx, execArgs(args), opts)
		},
	}
	flags.add(cmd)
	return cmd
}

// execArgs drops the ID and the dashes after it: flags end at the first word,
// so the parser leaves them in place.
func execArgs(args []string) []string {
	args = args[1:]
	if args[0] == "--" && len(args) > 1 {
		return args[1:]
	}
	return args
}

// oneRun is what a run was asked to do.
type oneRun struct {
	template string
	timeout  time.Duration // zero: none
	argv     []string
	opts     []client.CommandOption
}

const (
	// lease is how long a run's sandbox outlives this program if that is killed
	// without a chance to clean up; it is renewed long before it ends.
	lease, renewal = time.Minute, 20 * time.Second
	// killTimeout bounds the removal of the sandbox after an interrupt.
	killTimeout = 10 * time.Second
)

// runOnce creates a sandbox, runs the command in it and removes the sandbox
// whatever happens.
func (a *app) runOnce(ctx context.Context, c *client.Client, run oneRun) error {
	life := lease
	if run.timeout > 0 {
		life = run.timeout + lease
		late := errs.New(errs.Timeout, "the command did not end within %s", config.Duration(run.timeout))
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, run.timeout, late)
		defer cancel()
	}
	sbx, err := c.Create(ctx, client.WithTemplate(run.template), client.WithTimeout(life), client.WithMetadata(map[string]string{"started-by": "sandlot run"}))
	if err != nil {
		return err
	}
	defer a.remove(ctx, sbx)
	if run.timeout == 0 {
		stop := keepAlive(ctx, sbx)
		defer stop()
	}
	return a.passThrough(ctx, sbx, run.argv, run.opts)
}

// remove kills a sandbox even after ctx has ended. It has a lease, so that one
// that cannot be removed now ends by itself.
func (a *app) remove(ctx context.Context, sbx *client.Sandbox) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	if err := sbx.Kill(ctx); err != nil && !errors.Is(err, client.ErrNotFound) {
		a.say("warning: sandbox %s ends by itself later; it could not be removed: %v", sbx.ID, err)
	}
}

// keepAlive renews a sandbox's lease until stop is called. A renewal that does
// not succeed is tried again at the next tick; if none does, the command's
// stream breaks and says so.
func keepAlive(ctx context.Context, sbx *client.Sandbox) (stop func()) {
	return repeat(ctx, renewal, func(ctx context.Context) { _ = sbx.SetTimeout(ctx, lease) })
}

// repeat calls do at an interval until stop is called, which waits.
func repeat(ctx context.Context, every time.Duration, do func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				do(ctx)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// finished is a command's end for --json.
type finished struct {
	SandboxID string `json:"sandboxID"`
	ExitCode  int    `json:"exitCode"`
	Stdout    string `json:"stdout"`
	Stderr    string `json:"stderr"`
}

// passThrough runs a command with this program's streams and ends with its
// exit code. With --json its output becomes data instead.
func (a *app) passThrough(ctx context.Context, sbx *client.Sandbox, argv []string, opts []client.CommandOption) error {
	if !a.json {
		opts = append(opts, client.WithStdout(a.stdio.Out), client.WithStderr(a.stdio.Err))
	}
	if !isTerminal(a.stdio.In) {
		opts = append(opts, client.WithStdin())
	}
	cmd, err := sbx.Commands.StartExec(ctx, argv, opts...)
	if err != nil {
		return err
	}
	stop := a.forwardStdin(ctx, cmd)
	result, err := cmd.Wait(context.WithoutCancel(ctx)) // its stream ends with ctx
	stop()
	_, ended := errors.AsType[*client.ExitError](err)
	if ctx.Err() != nil && err != nil && !ended {
		killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		_ = cmd.Kill(killCtx) // its sandbox may be gone already
		return context.Cause(ctx)
	}
	if err != nil && !ended {
		return err
	}
	if a.json {
		if err := a.printJSON(finished{sbx.ID, result.ExitCode, result.Stdout, result.Stderr}); err != nil {
			return err
		}
	}
	if result.ExitCode != 0 {
		return exitCodeError(result.ExitCode)
	}
	return nil
}

// forwardStdin copies standard input to a command until either ends. stop waits
// for the copying, unless it is stuck in a read that nothing can interrupt; the
// program is about to end then.
func (a *app) forwardStdin(ctx context.Context, cmd *client.Command) (stop func()) {
	if isTerminal(a.stdio.In) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(stdinWriter{ctx, cmd}, a.stdio.In)
		if err == nil {
			_ = cmd.CloseStdin(ctx) // a command that has ended has no input to close
		}
	}()
	return func() {
		cancel()
		if f, ok := a.stdio.In.(*os.File); ok && f.SetReadDeadline(time.Now()) != nil {
			return
		}
		<-done
	}
}

// stdinWriter sends what is written to it to a command's standard input.
type stdinWriter struct {
	ctx context.Context // of the one copy this writer is made for
	cmd *client.Command
}

// Write blocks until the agent has taken p.
func (w stdinWriter) Write(p []byte) (int, error) {
	if err := w.cmd.SendStdin(w.ctx, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// isTerminal reports whether r is a terminal, or nothing to read from at all.
func isTerminal(r io.Reader) bool {
	if r == nil {
		return true
	}
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return true
	}
	found := false
	err = conn.Control(func(fd uintptr) {
		_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
		found = err == nil
	})
	return found || err != nil
}
