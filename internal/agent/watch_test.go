package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
)

// watching is a stream of WatchDir whose start message has come.
type watching struct {
	t      *testing.T
	stream *connect.ServerStreamForClient[pb.WatchDirResponse]
	cancel context.CancelFunc
}

func (a *testAgent) watch(t *testing.T, msg *pb.WatchDirRequest, header ...string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req := connect.NewRequest(msg)
	for i := 0; i < len(header); i += 2 {
		req.Header().Set(header[i], header[i+1])
	}
	stream, err := a.fs.WatchDir(ctx, req)
	must(t, err)
	t.Cleanup(func() { cancel(); _ = stream.Close() })
	if !stream.Receive() || stream.Msg().GetStart() == nil {
		t.Fatalf("the first message is %v, %v", stream.Msg(), stream.Err())
	}
	return &watching{t: t, stream: stream, cancel: cancel}
}

// until receives events up to one with this name.
func (w *watching) until(name string) (events []*pb.FilesystemEvent) {
	w.t.Helper()
	for w.stream.Receive() {
		e := w.stream.Msg().GetFilesystem()
		if e == nil {
			continue
		}
		if e.GetName() == name {
			return events
		}
		events = append(events, e)
	}
	w.t.Fatalf("no event of %s, but %v and the end: %v", name, said(events), w.stream.Err())
	return nil
}

func said(events []*pb.FilesystemEvent) string {
	var all []string
	for _, e := range events {
		all = append(all, strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_")+" "+e.GetName())
	}
	return strings.Join(all, ", ")
}

func TestWatchDir(t *testing.T) {
	a := startAgent(t)
	write(t, filepath.Join(a.home, "dir/old"), "old", 0o644)
	must(t, os.Symlink("dir", filepath.Join(a.home, "link")))
	for _, path := range []string{"dir", "~/link", filepath.Join(a.home, "dir") + "/"} {
		t.Run(path, func(t *testing.T) {
			w := a.watch(t, &pb.WatchDirRequest{Path: path, Recursive: true, IncludeEntry: true})
			a.do(t, "POST", "/files?path=dir/new", "new")
			a.do(t, "POST", "/files?path=dir/old", "newer")
			a.do(t, "POST", "/files?path=dir/sub/deep", "new")
			events := w.until("sub/deep")
			// Giving it to its user changes the attributes of sub.
			if got := strings.TrimSuffix(said(events), ", CHMOD sub"); got != "CREATE new, WRITE new, WRITE old, CREATE sub" {
				t.Error(got)
			}
			must(t, a.move(t, "dir/new", "dir/sub/moved"))
			w.until("sub/moved")
			must(t, a.remove(t, "dir/sub"))
			if got := said(w.until("sub")); got != "REMOVE sub/deep, REMOVE sub/moved" && got != "REMOVE sub/moved, REMOVE sub/deep" {
				t.Error(got)
			}
			for _, e := range events {
				if e.GetName() != "old" {
					continue
				}
				named := filepath.Join(a.home, strings.TrimPrefix(filepath.Base(path), "~/"), "old")
				if got := e.GetEntry(); got.GetPath() != named || got.GetSize() != 5 || got.GetType() != pb.FileType_FILE_TYPE_FILE {
					t.Errorf("entry %v, want that of %s", got, named)
				}
			}
		})
	}
}

func TestWatchRefusals(t *testing.T) {
	a := startAgent(t)
	write(t, filepath.Join(a.home, "f"), "", 0o644)
	for path, tt := range map[string]struct {
		header string
		code   connect.Code
	}{
		"f":          {"", connect.CodeInvalidArgument},
		"none":       {"", connect.CodeNotFound},
		"/no\x00ne":  {"", connect.CodeInvalidArgument},
		"f/below":    {"", connect.CodeInvalidArgument},
		"/":          {"Basic bm9ib2R5LW9mLXRoYXQtbmFtZTo=", connect.CodeUnauthenticated},
		"/elsewhere": {"Basic !", connect.CodeUnauthenticated},
	} {
		req := connect.NewRequest(&pb.WatchDirRequest{Path: path})
		poll := connect.NewRequest(&pb.CreateWatcherRequest{Path: path})
		if tt.header != "" {
			req.Header().Set("Authorization", tt.header)
			poll.Header().Set("Authorization", tt.header)
		}
		_, err := a.fs.CreateWatcher(t.Context(), poll)
		wantCode(t, "poll "+path, err, tt.code)
		stream, err := a.fs.WatchDir(t.Context(), req)
		must(t, err)
		stream.Receive()
		wantCode(t, "watch "+path, stream.Err(), tt.code)
		_ = stream.Close()
	}
}

func TestWatchEnds(t *testing.T) {
	a := startAgent(t)
	must(t, a.makeDir(t, "dir/sub"))
	w := a.watch(t, &pb.WatchDirRequest{Path: "dir", Recursive: true})
	must(t, a.remove(t, "dir"))
	if got := said(w.until(".")); got != "REMOVE sub" {
		t.Errorf("before its own removal: %s", got)
	}
	if w.stream.Receive() || w.stream.Err() != nil {
		t.Errorf("after it: %v, %v", w.stream.Msg(), w.stream.Err())
	}
}

func TestWatchKeepaliveAndTimeout(t *testing.T) {
	a := startAgent(t)
	w := a.watch(t, &pb.WatchDirRequest{Path: a.home}, "Keepalive-Ping-Interval", "1", "Connect-Timeout-Ms", "1500")
	if !w.stream.Receive() || w.stream.Msg().GetKeepalive() == nil {
		t.Errorf("after a second: %v, %v", w.stream.Msg(), w.stream.Err())
	}
	w.stream.Receive()
	wantCode(t, "after the timeout", w.stream.Err(), connect.CodeDeadlineExceeded)
}

// A client that goes away leaves nothing behind.
func TestWatchDisconnect(t *testing.T) {
	a := startAgent(t)
	must(t, a.makeDir(t, "dir"))
	for range 300 { // more than may watch at once
		w := a.watch(t, &pb.WatchDirRequest{Path: "dir"})
		w.cancel()
		_ = w.stream.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); instances(t) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("an inotify instance is left")
		}
	}
}

// instances counts this process's inotify instances.
func instances(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	for _, l := range links {
		if target, _ := os.Readlink(l); target == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

func (a *testAgent) poll(t *testing.T, id string) (string, error) {
	t.Helper()
	res, err := a.fs.GetWatcherEvents(t.Context(), connect.NewRequest(&pb.GetWatcherEventsRequest{WatcherId: id}))
	if err != nil {
		return "", err
	}
	return said(res.Msg.GetEvents()), nil
}

// pollUntil polls until text has come.
func (a *testAgent) pollUntil(t *testing.T, id, text string) (all string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.HasSuffix(all, text); time.Sleep(time.Millisecond) {
		got, err := a.poll(t, id)
		must(t, err)
		if got != "" {
			all = strings.TrimPrefix(all+", "+got, ", ")
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %s, want …%s", all, text)
		}
	}
	return all
}

func TestPolledWatcher(t *testing.T) {
	a := startAgent(t)
	must(t, a.makeDir(t, "dir"))
	create := func() (string, error) {
		res, err := a.fs.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: "dir"}))
		if err != nil {
			return "", err
		}
		return res.Msg.GetWatcherId(), nil
	}
	id, err := create()
	must(t, err)
	if got, err := a.poll(t, id); got != "" || err != nil {
		t.Errorf("at first %q, %v", got, err)
	}
	a.do(t, "POST", "/files?path=dir/f", "text")
	if got := a.pollUntil(t, id, "WRITE f"); got != "CREATE f, WRITE f" {
		t.Error(got)
	}
	must(t, a.remove(t, "dir"))
	if got := a.pollUntil(t, id, "REMOVE ."); got != "REMOVE f, REMOVE ." {
		t.Error(got)
	}
	if got, err := a.poll(t, id); got != "" || err != nil {
		t.Errorf("after the end %q, %v", got, err)
	}
	remove := connect.NewRequest(&pb.RemoveWatcherRequest{WatcherId: id})
	_, err = a.fs.RemoveWatcher(t.Context(), remove)
	must(t, err)
	_, err = a.fs.RemoveWatcher(t.Context(), remove)
	wantCode(t, "removed twice", err, connect.CodeNotFound)
	_, err = a.poll(t, id)
	wantCode(t, "poll a removed one", err, connect.CodeNotFound)

	must(t, a.makeDir(t, "dir"))
	for range 64 {
		_, err = create()
		must(t, err)
	}
	_, err = create()
	wantCode(t, "one too many", err, connect.CodeResourceExhausted)
}

// A poller who comes too late is told that events are missing, once.
func TestPolledWatcherLosesEvents(t *testing.T) {
	a := startAgent(t)
	names := [2]string{strings.Repeat("a", 250), strings.Repeat("b", 250)}
	for _, name := range names {
		write(t, filepath.Join(a.home, name), "", 0o644)
	}
	res, err := a.fs.CreateWatcher(t.Context(), connect.NewRequest(&pb.CreateWatcherRequest{Path: "."}))
	must(t, err)
	id := res.Msg.GetWatcherId()
	for i := range 60_000 { // in turn: the kernel makes one event of equal ones in a row
		must(t, os.Chmod(filepath.Join(a.home, names[i%2]), 0o600))
	}
	if got, err := a.poll(t, id); err != nil || !strings.HasPrefix(got, "CHMOD a") {
		t.Errorf("what was kept: %.100s, %v", got, err)
	}
	_, err = a.poll(t, id)
	if wantCode(t, "poll", err, connect.CodeResourceExhausted); err != nil && !strings.Contains(err.Error(), "events were lost") {
		t.Error(err)
	}
	_, err = a.poll(t, id)
	wantCode(t, "poll again", err, connect.CodeNotFound)
}
