package process

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
)

// follower is one stream of a process's events.
type follower struct {
	p    *proc
	sub  *subscriber
	send func(*pb.ProcessEvent) error
	// every is how long the stream may be silent.
	every time.Duration
	// limit is the timeout the process was started with, on the stream of Start.
	limit time.Duration
}

// follow sends start, then output as it comes, then end. It returns early when
// the client is gone, its time is up or it is too slow; the process goes on.
func (s *Service) follow(ctx context.Context, f follower) error {
	start := &pb.ProcessEvent_StartEvent{Pid: uint32(f.p.pid)}
	if err := f.send(&pb.ProcessEvent{Event: &pb.ProcessEvent_Start{Start: start}}); err != nil {
		return err
	}
	ping := time.NewTicker(f.every)
	defer ping.Stop()
	for {
		ended, err := f.drain()
		if err != nil {
			return wire.Error(err)
		}
		if ended {
			return f.end()
		}
		select {
		case <-f.sub.ready:
		case <-ping.C:
			err = f.send(&pb.ProcessEvent{Event: &pb.ProcessEvent_Keepalive{Keepalive: &pb.ProcessEvent_KeepAlive{}}})
		case <-ctx.Done():
			err = f.stopped(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// drain sends the output there is.
func (f follower) drain() (ended bool, err error) {
	for {
		data, from, ended, err := f.sub.take()
		if err != nil || ended || len(data) == 0 {
			return ended, err
		}
		if err := f.send(dataEvent(data, from)); err != nil {
			return false, err
		}
	}
}

func dataEvent(data []byte, from stream) *pb.ProcessEvent {
	e := &pb.ProcessEvent_DataEvent{}
	switch from {
	case stdout:
		e.Output = &pb.ProcessEvent_DataEvent_Stdout{Stdout: data}
	case stderr:
		e.Output = &pb.ProcessEvent_DataEvent_Stderr{Stderr: data}
	default:
		e.Output = &pb.ProcessEvent_DataEvent_Pty{Pty: data}
	}
	return &pb.ProcessEvent{Event: &pb.ProcessEvent_Data{Data: e}}
}

// end sends the end event. On the stream that set the timeout a process killed
// by it is an error.
func (f follower) end() error {
	end, timedOut := f.p.outcome()
	if timedOut && f.limit > 0 && f.p.limit.stream {
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New(timeoutText(f.limit)))
	}
	return f.send(&pb.ProcessEvent{Event: &pb.ProcessEvent_End{End: end}})
}

// stopped says why the stream ends before the process.
func (f follower) stopped(ctx context.Context) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return connect.NewError(connect.CodeCanceled, ctx.Err())
	}
	if f.limit > 0 {
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New(timeoutText(f.limit)))
	}
	return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the stream's timeout passed; the process goes on"))
}
