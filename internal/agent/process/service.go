// Package process is the agent's process service: it starts processes as a user
// of the sandbox, keeps what they print in a bounded ring, and streams it to any
// number of subscribers. A process belongs to the sandbox, not to the client
// that started it. Only the agent imports this package.
package process

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/reaper"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Options are what the service needs of the agent. All fields are required.
type Options struct {
	Reaper *reaper.Reaper
	Logger *slog.Logger
	// User returns whom a request with this Authorization header acts as.
	User func(authorization string) (account.User, error)
	// Env returns the sandbox's own variables; nobody changes the map.
	Env func() map[string]string
	// Workdir returns the sandbox's default directory, "" for the home directory.
	Workdir func() string
	// MaxProcesses returns how many processes may run at once, 0 for any number.
	MaxProcesses func() int
	// SwitchUser says that processes are started with the user's ids: the agent
	// is root. Otherwise they inherit the agent's.
	SwitchUser bool
}

// Service implements the process service. It is safe for concurrent use.
type Service struct {
	opts Options
	// wg counts the goroutines that read outputs.
	wg sync.WaitGroup

	mu sync.Mutex
	// procs are the processes without an end event, oldest first.
	procs []*proc
	// running counts the processes that have not exited.
	running int
	// pipes are the outputs being read.
	pipes map[*pipe]struct{}
}

var _ processconnect.ProcessHandler = (*Service)(nil)

// New returns a Service without processes.
func New(opts Options) *Service { return &Service{opts: opts, pipes: map[*pipe]struct{}{}} }

// Close kills the session of every process and waits until all are
// collected and no output is read any more. Requests must have ended.
func (s *Service) Close() {
	procs := s.list()
	for _, p := range procs {
		_ = p.child.SignalSession(syscall.SIGKILL) // it may have exited
	}
	s.mu.Lock()
	for p := range s.pipes {
		_ = p.file.Close()
	}
	s.mu.Unlock()
	for _, p := range procs {
		<-p.done
	}
	s.wg.Wait()
}

// pump reads one output of p until its end, which may be long after p's.
func (s *Service) pump(p *proc, pp *pipe) {
	p.pump(pp)
	s.mu.Lock()
	delete(s.pipes, pp)
	s.mu.Unlock()
}

func (s *Service) add(p *proc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.procs = append(s.procs, p)
	for _, pp := range p.io.outs {
		s.pipes[pp] = struct{}{}
	}
}

func (s *Service) remove(p *proc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.procs {
		if other == p {
			s.procs = append(s.procs[:i:i], s.procs[i+1:]...)
			return
		}
	}
}

// admit counts a process that is about to be started, or says that there are as
// many as there may be.
func (s *Service) admit() error {
	limit := s.opts.MaxProcesses()
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit > 0 && s.running >= limit {
		return errs.New(errs.Exhausted, "%d processes of this sandbox run already, which is its limit (limits.processes); end one first", s.running)
	}
	s.running++
	return nil
}

// left is admit's undo.
func (s *Service) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
}

func (s *Service) list() []*proc {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*proc(nil), s.procs...)
}

// find returns the process a selector names; of several with one tag, or one
// process id used again, the latest.
func (s *Service) find(sel *pb.ProcessSelector) (*proc, error) {
	var match func(*proc) bool
	var name string
	switch by := sel.GetSelector().(type) {
	case *pb.ProcessSelector_Pid:
		name = "pid " + strconv.FormatUint(uint64(by.Pid), 10)
		match = func(p *proc) bool { return uint64(p.pid) == uint64(by.Pid) }
	case *pb.ProcessSelector_Tag:
		name = "tag " + strconv.Quote(by.Tag)
		match = func(p *proc) bool { return p.tag != nil && *p.tag == by.Tag }
	default:
		return nil, errs.New(errs.Invalid, "the request names no process; set process.pid or process.tag")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Backward(s.procs) {
		if match(p) {
			return p, nil
		}
	}
	return nil, errs.New(errs.NotFound, "no process with %s is running", name)
}

// List returns the processes that run.
func (s *Service) List(context.Context, *connect.Request[pb.ListRequest]) (*connect.Response[pb.ListResponse], error) {
	res := &pb.ListResponse{}
	for _, p := range s.list() {
		if p.running() {
			res.Processes = append(res.Processes, &pb.ProcessInfo{Config: p.config, Pid: uint32(p.pid), Tag: p.tag})
		}
	}
	return connect.NewResponse(res), nil
}

// Start starts a process and streams its events. When the client's timeout
// passes, the process is killed, whether or not the client still listens; a
// client that only goes away leaves it running.
func (s *Service) Start(ctx context.Context, req *connect.Request[pb.StartRequest], res *connect.ServerStream[pb.StartResponse]) error {
	user, err := s.opts.User(req.Header().Get("Authorization"))
	if err != nil {
		return wire.Error(err)
	}
	c, err := s.plan(req.Msg, user)
	if err != nil {
		return wire.Error(err)
	}
	var limit time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		limit = max(time.Until(deadline), 1)
	}
	p, sub, err := s.launch(c, req.Msg, limit)
	if err != nil {
		return s.fail(err)
	}
	defer sub.detach()
	return s.follow(ctx, follower{
		p: p, sub: sub, every: wire.Keepalive(req.Header()), limit: limit,
		send: func(e *pb.ProcessEvent) error { return res.Send(&pb.StartResponse{Event: e}) },
	})
}

// Connect attaches to a running process and streams its start event and what it
// does from now on.
func (s *Service) Connect(ctx context.Context, req *connect.Request[pb.ConnectRequest], res *connect.ServerStream[pb.ConnectResponse]) error {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return wire.Error(err)
	}
	sub, err := p.out.subscribe()
	if err != nil {
		return wire.Error(err)
	}
	defer sub.detach()
	return s.follow(ctx, follower{
		p: p, sub: sub, every: wire.Keepalive(req.Header()),
		send: func(e *pb.ProcessEvent) error { return res.Send(&pb.ConnectResponse{Event: e}) },
	})
}

// Update resizes a process's terminal; its foreground gets SIGWINCH.
func (s *Service) Update(_ context.Context, req *connect.Request[pb.UpdateRequest]) (*connect.Response[pb.UpdateResponse], error) {
	p, err := s.find(req.Msg.GetProcess())
	if err == nil {
		err = p.resize(req.Msg.GetPty())
	}
	if err != nil {
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.UpdateResponse{}), nil
}

// SendInput writes to a process's standard input, or as somebody who types to its
// terminal, and returns when the kernel has taken it all.
func (s *Service) SendInput(ctx context.Context, req *connect.Request[pb.SendInputRequest]) (*connect.Response[pb.SendInputResponse], error) {
	p, err := s.find(req.Msg.GetProcess())
	if err == nil {
		err = s.send(ctx, p, req.Msg.GetInput())
	}
	if err != nil {
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.SendInputResponse{}), nil
}

func (s *Service) send(ctx context.Context, p *proc, in *pb.ProcessInput) error {
	switch data := in.GetInput().(type) {
	case *pb.ProcessInput_Stdin:
		if p.io.terminal {
			return errs.New(errs.Invalid, "process %d has a terminal; send input.pty, not input.stdin", p.pid)
		}
		return p.io.in.write(ctx, data.Stdin)
	case *pb.ProcessInput_Pty:
		if !p.io.terminal {
			return errs.New(errs.Invalid, "process %d has no terminal; send input.stdin, not input.pty", p.pid)
		}
		return p.io.in.write(ctx, data.Pty)
	default:
		return errs.New(errs.Invalid, "the request has no input; set input.stdin or input.pty")
	}
}

// StreamInput is SendInput for many inputs in order: the first message names the
// process.
func (s *Service) StreamInput(ctx context.Context, req *connect.ClientStream[pb.StreamInputRequest]) (*connect.Response[pb.StreamInputResponse], error) {
	var p *proc
	for req.Receive() {
		var err error
		switch e := req.Msg().GetEvent().(type) {
		case *pb.StreamInputRequest_Start:
			p, err = s.find(e.Start.GetProcess())
		case *pb.StreamInputRequest_Data:
			if p == nil {
				err = errs.New(errs.Invalid, "the first message of the stream must be start, naming the process")
			} else {
				err = s.send(ctx, p, e.Data.GetInput())
			}
		}
		if err != nil {
			return nil, s.fail(err)
		}
	}
	if err := req.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.StreamInputResponse{}), nil
}

// CloseStdin ends a process's standard input. Closing it again, or that of a
// process started without one, does nothing.
func (s *Service) CloseStdin(_ context.Context, req *connect.Request[pb.CloseStdinRequest]) (*connect.Response[pb.CloseStdinResponse], error) {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, wire.Error(err)
	}
	if p.io.terminal {
		return nil, wire.Error(errs.New(errs.Invalid, "process %d has a terminal, whose input cannot be closed; send Ctrl-D (byte 4) as input.pty", p.pid))
	}
	if p.io.in != nil {
		p.io.in.close()
	}
	return connect.NewResponse(&pb.CloseStdinResponse{}), nil
}

// SendSignal signals a process and everything it started that stayed in its
// session: its process group, the jobs of a shell, and programs that made
// themselves a group. A daemon that left by setsid(2) is not reached.
func (s *Service) SendSignal(_ context.Context, req *connect.Request[pb.SendSignalRequest]) (*connect.Response[pb.SendSignalResponse], error) {
	p, err := s.find(req.Msg.GetProcess())
	if err != nil {
		return nil, wire.Error(err)
	}
	var sig syscall.Signal
	switch req.Msg.GetSignal() {
	case pb.Signal_SIGNAL_SIGKILL:
		sig = syscall.SIGKILL
	case pb.Signal_SIGNAL_SIGTERM:
		sig = syscall.SIGTERM
	default:
		return nil, wire.Error(errs.New(errs.Invalid, "signal %s cannot be sent; use SIGNAL_SIGKILL or SIGNAL_SIGTERM", req.Msg.GetSignal()))
	}
	if err := p.child.SignalSession(sig); err != nil {
		if errors.Is(err, reaper.ErrExited) {
			err = errs.New(errs.NotFound, "process %d has exited", p.pid)
		}
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.SendSignalResponse{}), nil
}

// fail turns err into the client's error and logs what the client is not told.
func (s *Service) fail(err error) error {
	var public *connect.Error
	switch {
	case errors.As(err, &public):
		return public
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, err)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errs.KindOf(err) == errs.Internal:
		s.opts.Logger.Error("process request failed", "error", err)
	}
	return wire.Error(err)
}
