package files

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/internal/agent/watch"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// streamBatch is how many events are taken for a stream at once, pollBatch how
	// many one poll returns at most.
	streamBatch = 64
	pollBatch   = 16 << 10
	// maxPolled bounds the watchers that are polled, whose owners may be gone;
	// pollIdle is after how long without a poll one is taken for abandoned.
	maxPolled = 64
	pollIdle  = time.Hour
)

// eventTypes are the wire's names of operations.
var eventTypes = map[watch.Op]pb.EventType{
	watch.Create: pb.EventType_EVENT_TYPE_CREATE,
	watch.Write:  pb.EventType_EVENT_TYPE_WRITE,
	watch.Remove: pb.EventType_EVENT_TYPE_REMOVE,
	watch.Rename: pb.EventType_EVENT_TYPE_RENAME,
	watch.Chmod:  pb.EventType_EVENT_TYPE_CHMOD,
}

// watching is one watcher and how its events are told.
type watching struct {
	s *Service
	w *watch.Watcher
	// dir is the directory as the client named it.
	dir     string
	entries bool
}

// watchRequest is what WatchDir and CreateWatcher have in common.
type watchRequest interface {
	GetPath() string
	GetRecursive() bool
	GetIncludeEntry() bool
	GetAllowNetworkMounts() bool
}

// watch begins to watch what a request says.
func (s *Service) watch(ctx context.Context, req connect.AnyRequest, msg watchRequest) (*watching, error) {
	path, _, err := s.locate(req, msg.GetPath())
	if err != nil {
		return nil, err
	}
	info, err := statTarget(path)
	if err != nil {
		return nil, wire.Errno(err, "watch", path)
	}
	if !info.IsDir() {
		return nil, errs.New(errs.Invalid, "%s is not a directory; watch the directory it is in", path)
	}
	w, err := s.hub.Watch(ctx, watch.Request{Path: path, Recursive: msg.GetRecursive(), Network: msg.GetAllowNetworkMounts()})
	if _, classified := errors.AsType[*errs.Error](err); err != nil && !classified {
		err = wire.Errno(err, "watch", path)
	}
	if err != nil {
		return nil, err
	}
	return &watching{s: s, w: w, dir: path, entries: msg.GetIncludeEntry()}, nil
}

// event returns an event for the wire. An entry describes the file as it is now,
// if it still is.
func (t *watching) event(e watch.Event) *pb.FilesystemEvent {
	out := &pb.FilesystemEvent{Name: valid(e.Name), Type: eventTypes[e.Op]}
	if !t.entries || e.Op == watch.Remove || e.Op == watch.Rename {
		return out
	}
	path := t.dir
	if e.Name != watch.Top {
		path = strings.TrimSuffix(path, "/") + "/" + e.Name
	}
	if entry, err := t.s.describe(path); err == nil {
		out.Entry = entry
	}
	return out
}

// WatchDir streams the changes of a directory. The first message comes when
// every later change is told. The stream ends without an error when the
// directory is removed or renamed, after an event named "." that says so, and
// with resource_exhausted when events were lost.
func (s *Service) WatchDir(ctx context.Context, req *connect.Request[pb.WatchDirRequest], res *connect.ServerStream[pb.WatchDirResponse]) error {
	t, err := s.watch(ctx, req, req.Msg)
	if err != nil {
		return s.fail(err)
	}
	defer t.w.Close()
	if err := res.Send(&pb.WatchDirResponse{Event: &pb.WatchDirResponse_Start{Start: &pb.WatchDirResponse_StartEvent{}}}); err != nil {
		return err
	}
	ping := time.NewTicker(wire.Keepalive(req.Header()))
	defer ping.Stop()
	for {
		if ended, err := t.send(res); ended || err != nil {
			return s.fail(err)
		}
		select {
		case <-t.w.Ready():
		case <-ping.C:
			err = res.Send(&pb.WatchDirResponse{Event: &pb.WatchDirResponse_Keepalive{Keepalive: &pb.WatchDirResponse_KeepAlive{}}})
		case <-ctx.Done():
			err = watchStopped(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// send sends the events there are.
func (t *watching) send(res *connect.ServerStream[pb.WatchDirResponse]) (ended bool, err error) {
	for {
		events, ended, err := t.w.Take(streamBatch)
		if ended || err != nil || len(events) == 0 {
			return ended, err
		}
		for _, e := range events {
			if err := res.Send(&pb.WatchDirResponse{Event: &pb.WatchDirResponse_Filesystem{Filesystem: t.event(e)}}); err != nil {
				return false, connect.NewError(connect.CodeCanceled, err)
			}
		}
	}
}

func watchStopped(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the stream's timeout passed; pass a longer one, or 0 to watch without end"))
	}
	return connect.NewError(connect.CodeCanceled, ctx.Err())
}

// polled is a watcher whose events wait to be fetched.
type polled struct {
	*watching
	expiry *time.Timer
}

// CreateWatcher begins to collect the changes of a directory.
func (s *Service) CreateWatcher(ctx context.Context, req *connect.Request[pb.CreateWatcherRequest]) (*connect.Response[pb.CreateWatcherResponse], error) {
	t, err := s.watch(ctx, req, req.Msg)
	if err != nil {
		return nil, s.fail(err)
	}
	id, err := s.keep(t)
	if err != nil {
		t.w.Close()
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.CreateWatcherResponse{WatcherId: id}), nil
}

// keep gives a watcher a name and the time in which it must be polled.
func (s *Service) keep(t *watching) (id string, err error) {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	id = hex.EncodeToString(b[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", errs.New(errs.Unavailable, "the agent is shutting down")
	}
	if len(s.polled) >= maxPolled {
		return "", errs.New(errs.Exhausted, "the sandbox has %d watchers that are polled; remove one first", maxPolled)
	}
	p := &polled{watching: t}
	p.expiry = time.AfterFunc(pollIdle, func() { s.removePolled(id) })
	s.polled[id] = p
	return id, nil
}

// GetWatcherEvents returns what has changed since the last call. When events
// were lost, one call says so and the watcher is gone; when the directory is, the
// calls go on with nothing to return.
func (s *Service) GetWatcherEvents(_ context.Context, req *connect.Request[pb.GetWatcherEventsRequest]) (*connect.Response[pb.GetWatcherEventsResponse], error) {
	id := req.Msg.GetWatcherId()
	s.mu.Lock()
	p := s.polled[id]
	if p != nil {
		p.expiry.Reset(pollIdle)
	}
	s.mu.Unlock()
	if p == nil {
		return nil, s.fail(errNoWatcher(id))
	}
	events, _, err := p.w.Take(pollBatch)
	if err != nil {
		s.removePolled(id)
		return nil, s.fail(err)
	}
	res := &pb.GetWatcherEventsResponse{Events: make([]*pb.FilesystemEvent, len(events))}
	for i, e := range events {
		res.Events[i] = p.event(e)
	}
	return connect.NewResponse(res), nil
}

func errNoWatcher(id string) error {
	return errs.New(errs.NotFound, "no watcher %q: it was removed, or not asked for events for %s", id, pollIdle)
}

// RemoveWatcher ends a watcher that is polled.
func (s *Service) RemoveWatcher(_ context.Context, req *connect.Request[pb.RemoveWatcherRequest]) (*connect.Response[pb.RemoveWatcherResponse], error) {
	if !s.removePolled(req.Msg.GetWatcherId()) {
		return nil, s.fail(errNoWatcher(req.Msg.GetWatcherId()))
	}
	return connect.NewResponse(&pb.RemoveWatcherResponse{}), nil
}

func (s *Service) removePolled(id string) bool {
	s.mu.Lock()
	p := s.polled[id]
	delete(s.polled, id)
	s.mu.Unlock()
	if p == nil {
		return false
	}
	p.expiry.Stop()
	p.w.Close()
	return true
}

// Close ends all watchers and waits until nothing of them is left.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	ids := make([]string, 0, len(s.polled))
	for id := range s.polled {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	for _, id := range ids {
		s.removePolled(id)
	}
	s.hub.Close()
}
