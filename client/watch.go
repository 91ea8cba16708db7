package client

import (
	"context"
	"iter"
	"sync/atomic"

	"connectrpc.com/connect"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem"
)

// FileEventType is what happened to a file.
type FileEventType string

// The types of events. A renaming within the watched tree is FileRenamed of the
// old name and then FileCreated of the new one.
const (
	FileCreated FileEventType = "create"
	FileWritten FileEventType = "write"
	FileRemoved FileEventType = "remove"
	FileRenamed FileEventType = "rename"
	FileChanged FileEventType = "chmod"
)

var fileEventTypes = map[filesystem.EventType]FileEventType{
	filesystem.EventType_EVENT_TYPE_CREATE: FileCreated,
	filesystem.EventType_EVENT_TYPE_WRITE:  FileWritten,
	filesystem.EventType_EVENT_TYPE_REMOVE: FileRemoved,
	filesystem.EventType_EVENT_TYPE_RENAME: FileRenamed,
	filesystem.EventType_EVENT_TYPE_CHMOD:  FileChanged,
}

// FileEvent is one change in a watched directory.
type FileEvent struct {
	// Name is relative to the directory, which itself is ".".
	Name string        `json:"name"`
	Type FileEventType `json:"type"`
	// Entry is set if WithEntries asked for it and the file was still there.
	Entry *Entry `json:"entry,omitempty"`
}

// WatchOption changes what is watched and for whom.
type WatchOption interface{ watch(*watchConfig) }

type watchConfig struct {
	user string
	msg  filesystem.WatchDirRequest
}

type watchOption func(*filesystem.WatchDirRequest)

func (o watchOption) watch(c *watchConfig) { o(&c.msg) }

func (u UserOption) watch(c *watchConfig) { c.user = string(u) }

// Recursively watches all directories below, too, also those made later.
func Recursively() WatchOption {
	return watchOption(func(r *filesystem.WatchDirRequest) { r.Recursive = true })
}

// WithEntries adds to each event the file's entry.
func WithEntries() WatchOption {
	return watchOption(func(r *filesystem.WatchDirRequest) { r.IncludeEntry = true })
}

// WithNetworkMounts allows a directory on a network file system, where changes
// made by other machines are not seen.
func WithNetworkMounts() WatchOption {
	return watchOption(func(r *filesystem.WatchDirRequest) { r.AllowNetworkMounts = true })
}

// Watcher watches a directory until it is closed or its context ends. One
// goroutine ranges over Events; any may call Close.
type Watcher struct {
	files  *Files
	ctx    context.Context //nolint:containedctx // it is that of the open stream
	cancel context.CancelFunc
	stream *connect.ServerStreamForClient[filesystem.WatchDirResponse]
	// over says that the directory is gone, which is no error.
	over   bool
	closed atomic.Bool
}

// Watch begins to watch a directory. Every change made after it returns is
// reported. The context bounds the watching, not only the beginning of it. The
// caller closes the Watcher.
func (f *Files) Watch(ctx context.Context, path string, opts ...WatchOption) (*Watcher, error) {
	cfg := watchConfig{msg: filesystem.WatchDirRequest{Path: path}}
	for _, o := range opts {
		o.watch(&cfg)
	}
	ctx, cancel := streamContext(ctx)
	stream, err := f.sbx.client.files.WatchDir(ctx, rpc(f.sbx, cfg.user, &cfg.msg))
	if err != nil {
		err = f.sbx.fail(ctx, err)
		cancel()
		return nil, err
	}
	if !stream.Receive() || stream.Msg().GetStart() == nil {
		err := f.sbx.Commands.streamError(ctx, stream.Err())
		cancel()
		_ = stream.Close()
		return nil, err
	}
	return &Watcher{files: f, ctx: ctx, cancel: cancel, stream: stream}, nil
}

// Events returns the changes as they come. A loop over it that was left early
// goes on in the next one. It ends after an event of ".", which says that the
// directory was removed or renamed, and after Close. Anything else that ends it is
// an error: ErrExhausted if events were lost because they came faster than they
// were read.
func (w *Watcher) Events() iter.Seq2[FileEvent, error] {
	return func(yield func(FileEvent, error) bool) {
		for w.stream.Receive() {
			e := w.stream.Msg().GetFilesystem()
			if e == nil {
				continue // a keepalive
			}
			event := fileEvent(e)
			w.over = event.Name == "." && event.Type != FileChanged
			if !yield(event, nil) {
				return
			}
		}
		err := w.failure()
		w.cancel()
		_ = w.stream.Close()
		if err != nil {
			yield(FileEvent{}, err)
		}
	}
}

func fileEvent(e *filesystem.FilesystemEvent) FileEvent {
	out := FileEvent{Name: e.GetName(), Type: fileEventTypes[e.GetType()]}
	if e.Entry != nil {
		described := entry(e.GetEntry())
		out.Entry = &described
	}
	return out
}

// failure says why the stream ended, nil if it should have.
func (w *Watcher) failure() error {
	err := w.stream.Err()
	if w.closed.Load() || w.over && err == nil {
		return nil
	}
	return w.files.sbx.Commands.streamError(w.ctx, err)
}

// Close stops watching. Closing again does nothing.
func (w *Watcher) Close() {
	w.closed.Store(true)
	w.cancel() // which also ends what Events waits for
}
