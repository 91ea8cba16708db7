package client

import (
	"context"
	"io"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/sandlot-dev/sandlot/gen/envd/process"
)

// Commands runs processes in a sandbox. It is safe for concurrent use.
type Commands struct{ sbx *Sandbox }

// CommandOption changes how a command runs.
type CommandOption interface{ command(*commandConfig) }

type commandConfig struct {
	user, cwd, tag string
	env            map[string]string
	stdin          bool
	stdout, stderr io.Writer
	terminal       *process.PTY
	limitMs        uint32
}

type commandOption func(*commandConfig)

func (o commandOption) command(c *commandConfig) { o(c) }

// UserOption names the user on whose behalf something is done; see AsUser.
type UserOption string

func (u UserOption) command(c *commandConfig) { c.user = string(u) }
func (u UserOption) file(c *fileConfig)       { c.user = string(u) }

// AsUser runs a command or touches files as that user, e.g. "root". Without it
// the template's user does, usually "user".
func AsUser(name string) UserOption { return UserOption(name) }

// InDir sets the working directory; without it, the user's home.
func InDir(path string) CommandOption {
	return commandOption(func(c *commandConfig) { c.cwd = path })
}

// WithVars adds environment variables for this command only.
func WithVars(pairs map[string]string) CommandOption {
	return commandOption(func(c *commandConfig) { addTo(&c.env, pairs) })
}

// WithTag names the command, so that ConnectTag finds it again.
func WithTag(tag string) CommandOption {
	return commandOption(func(c *commandConfig) { c.tag = tag })
}

// WithStdin gives the command an open standard input for SendStdin. Without it,
// reading standard input finds its end at once.
func WithStdin() CommandOption {
	return commandOption(func(c *commandConfig) { c.stdin = true })
}

// WithStdout writes standard output to w as it comes; it is then not kept in
// the Result. Writes are sequential, standard error's too, and a slow writer
// slows the command down. An error of w ends the stream and is what Wait returns.
func WithStdout(w io.Writer) CommandOption {
	return commandOption(func(c *commandConfig) { c.stdout = w })
}

// WithStderr is WithStdout for standard error.
func WithStderr(w io.Writer) CommandOption {
	return commandOption(func(c *commandConfig) { c.stderr = w })
}

// Run runs a shell command line (bash -l -c) and waits for its end. A code
// other than zero gives the Result and an *ExitError. If ctx ends first, the
// command is killed.
func (c *Commands) Run(ctx context.Context, line string, opts ...CommandOption) (Result, error) {
	return c.Exec(ctx, shell(line), opts...)
}

// Exec is Run for a program with its arguments, without a shell. argv[0] is
// looked up in the sandbox's PATH.
func (c *Commands) Exec(ctx context.Context, argv []string, opts ...CommandOption) (Result, error) {
	cmd, err := c.StartExec(ctx, argv, opts...)
	if err != nil {
		return Result{ExitCode: -1}, err
	}
	<-cmd.done // which ctx, too, brings about
	if !cmd.ended && ctx.Err() != nil {
		cmd.abandon(ctx)
	}
	return cmd.result, cmd.err
}

// abandonTimeout bounds how long a command whose caller gave up is chased.
const abandonTimeout = 5 * time.Second

// abandon kills a command whose context has ended. Its error has no reader: the
// caller gets the context's.
func (c *Command) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTimeout)
	defer cancel()
	_ = c.Kill(ctx)
}

// Start starts a shell command line (bash -l -c) and returns once it runs. The
// context bounds the handle's stream, not only the start: when it ends, Wait
// returns, and output is no longer received. The command itself goes on.
func (c *Commands) Start(ctx context.Context, line string, opts ...CommandOption) (*Command, error) {
	return c.StartExec(ctx, shell(line), opts...)
}

func shell(line string) []string { return []string{"/bin/bash", "-l", "-c", line} }

// StartExec is Start for a program with its arguments, without a shell.
func (c *Commands) StartExec(ctx context.Context, argv []string, opts ...CommandOption) (*Command, error) {
	if len(argv) == 0 {
		return nil, &Error{Code: 400, Message: "no command given"}
	}
	cfg := configure(opts)
	req := &process.StartRequest{
		Process: &process.ProcessConfig{Cmd: argv[0], Args: argv[1:], Envs: cfg.env},
		Stdin:   &cfg.stdin, Pty: cfg.terminal, TimeoutMs: cfg.limitMs,
	}
	if cfg.cwd != "" {
		req.Process.Cwd = &cfg.cwd
	}
	if cfg.tag != "" {
		req.Tag = &cfg.tag
	}
	return c.open(ctx, cfg, func(ctx context.Context) (eventStream, error) {
		stream, err := c.sbx.client.processes.Start(ctx, rpc(c.sbx, cfg.user, req))
		return serverStream[process.StartResponse]{stream}, err
	})
}

// Connect attaches to a running command by its PID. Output from before is not
// repeated. The context is used as in Start; of the options only WithStdout,
// WithStderr and AsUser have an effect.
func (c *Commands) Connect(ctx context.Context, pid int, opts ...CommandOption) (*Command, error) {
	return c.connect(ctx, byPID(pid), opts)
}

// ConnectTag is Connect by the tag the command was started with.
func (c *Commands) ConnectTag(ctx context.Context, tag string, opts ...CommandOption) (*Command, error) {
	return c.connect(ctx, &process.ProcessSelector{Selector: &process.ProcessSelector_Tag{Tag: tag}}, opts)
}

func (c *Commands) connect(ctx context.Context, which *process.ProcessSelector, opts []CommandOption) (*Command, error) {
	cfg := configure(opts)
	return c.open(ctx, cfg, func(ctx context.Context) (eventStream, error) {
		stream, err := c.sbx.client.processes.Connect(ctx, rpc(c.sbx, cfg.user, &process.ConnectRequest{Process: which}))
		return serverStream[process.ConnectResponse]{stream}, err
	})
}

func configure(opts []CommandOption) commandConfig {
	var cfg commandConfig
	for _, o := range opts {
		o.command(&cfg)
	}
	return cfg
}

func byPID(pid int) *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: uint32(pid)}}
}

// Process is a running command as List shows it.
type Process struct {
	PID int `json:"pid"`
	// Tag is what WithTag said, else empty.
	Tag string `json:"tag,omitempty"`
	// Argv is the program and its arguments.
	Argv []string `json:"argv"`
	// Env holds the variables this command was given beyond the sandbox's.
	Env map[string]string `json:"env,omitempty"`
	// Dir is the working directory it was given, else empty.
	Dir string `json:"dir,omitempty"`
}

// List returns the running commands, by ascending PID.
func (c *Commands) List(ctx context.Context) ([]Process, error) {
	reply, err := c.sbx.client.processes.List(ctx, rpc(c.sbx, "", &process.ListRequest{}))
	if err != nil {
		return nil, c.sbx.fail(ctx, err)
	}
	all := make([]Process, 0, len(reply.Msg.GetProcesses()))
	for _, p := range reply.Msg.GetProcesses() {
		all = append(all, Process{
			PID: int(p.GetPid()), Tag: p.GetTag(),
			Argv: append([]string{p.GetConfig().GetCmd()}, p.GetConfig().GetArgs()...),
			Env:  maps.Clone(p.GetConfig().GetEnvs()), Dir: p.GetConfig().GetCwd(),
		})
	}
	slices.SortFunc(all, func(a, b Process) int { return a.PID - b.PID })
	return all, nil
}

// Kill ends a command with SIGKILL. If there is none, the error is ErrNotFound.
func (c *Commands) Kill(ctx context.Context, pid int) error {
	return c.signal(ctx, pid, process.Signal_SIGNAL_SIGKILL)
}

// Terminate asks a command to end, with SIGTERM. If there is none, the error is
// ErrNotFound.
func (c *Commands) Terminate(ctx context.Context, pid int) error {
	return c.signal(ctx, pid, process.Signal_SIGNAL_SIGTERM)
}

func (c *Commands) signal(ctx context.Context, pid int, sig process.Signal) error {
	_, err := c.sbx.client.processes.SendSignal(ctx, rpc(c.sbx, "", &process.SendSignalRequest{Process: byPID(pid), Signal: sig}))
	return c.sbx.fail(ctx, err)
}

// SendStdin writes to a command's standard input, which must be open (see
// WithStdin). It returns when the agent has taken the data.
func (c *Commands) SendStdin(ctx context.Context, pid int, data []byte) error {
	_, err := c.sbx.client.processes.SendInput(ctx, rpc(c.sbx, "", &process.SendInputRequest{
		Process: byPID(pid),
		Input:   &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: data}},
	}))
	return c.sbx.fail(ctx, err)
}

// CloseStdin ends a command's standard input.
func (c *Commands) CloseStdin(ctx context.Context, pid int) error {
	_, err := c.sbx.client.processes.CloseStdin(ctx, rpc(c.sbx, "", &process.CloseStdinRequest{Process: byPID(pid)}))
	return c.sbx.fail(ctx, err)
}

// eventStream is what Start and Connect answer with.
type eventStream interface {
	// next returns the next event, or false at the end of the stream.
	next() (*process.ProcessEvent, bool)
	Err() error
	Close() error
}

// serverStream makes one of the generated streams an eventStream.
type serverStream[T any] struct {
	*connect.ServerStreamForClient[T]
}

func (s serverStream[T]) next() (*process.ProcessEvent, bool) {
	if !s.Receive() {
		return nil, false
	}
	msg, ok := any(s.Msg()).(interface{ GetEvent() *process.ProcessEvent })
	return msg.GetEvent(), ok
}
