package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"time"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem"
)

// Files reads and writes a sandbox's files. Relative paths start at the user's
// home. It is safe for concurrent use.
type Files struct{ sbx *Sandbox }

// FileOption changes on whose behalf files are touched; AsUser is the one there is.
type FileOption interface{ file(*fileConfig) }

type fileConfig struct{ user string }

func userOf(opts []FileOption) string {
	var cfg fileConfig
	for _, o := range opts {
		o.file(&cfg)
	}
	return cfg.user
}

// EntryType is what a path names.
type EntryType string

// The types of entries. Anything else (a socket, a device) is OtherEntry.
const (
	FileEntry    EntryType = "file"
	DirEntry     EntryType = "dir"
	SymlinkEntry EntryType = "symlink"
	OtherEntry   EntryType = "other"
)

// Entry describes a file, directory or symbolic link.
type Entry struct {
	Name string    `json:"name"`
	Path string    `json:"path"`
	Type EntryType `json:"type"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// Mode holds the permission bits only.
	Mode    fs.FileMode `json:"mode"`
	Owner   string      `json:"owner"`
	Group   string      `json:"group"`
	ModTime time.Time   `json:"modTime"`
	// SymlinkTarget is absolute and resolved; empty for what is no link.
	SymlinkTarget string `json:"symlinkTarget,omitempty"`
}

// Read returns a whole file. Use ReadStream for one that may be large.
func (f *Files) Read(ctx context.Context, path string, opts ...FileOption) ([]byte, error) {
	body, err := f.ReadStream(ctx, path, opts...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, transportError(ctx, f.sbx.client.opts.SandboxURL, err)
	}
	return data, nil
}

// ReadStream returns a file's content as it arrives. The caller closes it; ctx
// must live as long as the reading.
func (f *Files) ReadStream(ctx context.Context, path string, opts ...FileOption) (io.ReadCloser, error) {
	resp, err := f.sbx.do(ctx, http.MethodGet, "/files", fileQuery(path, opts), nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Write makes or replaces a file and the directories above it.
func (f *Files) Write(ctx context.Context, path string, data []byte, opts ...FileOption) error {
	return f.WriteStream(ctx, path, bytes.NewReader(data), opts...)
}

// WriteStream is Write with content from r, which is read until its end and
// never held in memory.
func (f *Files) WriteStream(ctx context.Context, path string, r io.Reader, opts ...FileOption) error {
	resp, err := f.sbx.do(ctx, http.MethodPost, "/files", fileQuery(path, opts), r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
	return nil
}

func fileQuery(path string, opts []FileOption) url.Values {
	q := url.Values{"path": {path}}
	if user := userOf(opts); user != "" {
		q.Set("username", user)
	}
	return q
}

// do does one plain HTTP request to the sandbox's agent. The caller closes the
// reply's body unless there is an error.
func (s *Sandbox) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	target := s.client.opts.SandboxURL + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	return s.send(req)
}

// send addresses a request to the sandbox's agent and does it, as do does.
func (s *Sandbox) send(req *http.Request) (*http.Response, error) {
	s.address(req.Header, "")
	resp, err := s.client.opts.HTTPClient.Do(req)
	if err != nil {
		return nil, transportError(req.Context(), s.client.opts.SandboxURL, err)
	}
	if resp.StatusCode/100 != 2 {
		defer func() { _ = resp.Body.Close() }()
		return nil, statusError(resp)
	}
	return resp, nil
}

// List returns what a directory holds, sorted by path: depth 1 is the directory
// itself, 2 also what its directories hold, and so on.
func (f *Files) List(ctx context.Context, path string, depth int, opts ...FileOption) ([]Entry, error) {
	if depth < 1 {
		return nil, &Error{Code: http.StatusBadRequest, Message: "depth must be at least 1"}
	}
	reply, err := f.sbx.client.files.ListDir(ctx, rpc(f.sbx, userOf(opts), &filesystem.ListDirRequest{Path: path, Depth: uint32(depth)}))
	if err != nil {
		return nil, f.sbx.fail(ctx, err)
	}
	entries := make([]Entry, len(reply.Msg.GetEntries()))
	for i, e := range reply.Msg.GetEntries() {
		entries[i] = entry(e)
	}
	return entries, nil
}

// Info describes what path names. It does not follow a link.
func (f *Files) Info(ctx context.Context, path string, opts ...FileOption) (Entry, error) {
	reply, err := f.sbx.client.files.Stat(ctx, rpc(f.sbx, userOf(opts), &filesystem.StatRequest{Path: path}))
	if err != nil {
		return Entry{}, f.sbx.fail(ctx, err)
	}
	return entry(reply.Msg.GetEntry()), nil
}

// Exists reports whether path names something.
func (f *Files) Exists(ctx context.Context, path string, opts ...FileOption) (bool, error) {
	_, err := f.Info(ctx, path, opts...)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// MakeDir makes a directory and those above it. If path exists, the error is
// ErrConflict.
func (f *Files) MakeDir(ctx context.Context, path string, opts ...FileOption) error {
	_, err := f.sbx.client.files.MakeDir(ctx, rpc(f.sbx, userOf(opts), &filesystem.MakeDirRequest{Path: path}))
	return f.sbx.fail(ctx, err)
}

// Rename moves a file or directory and returns its new entry.
func (f *Files) Rename(ctx context.Context, from, to string, opts ...FileOption) (Entry, error) {
	reply, err := f.sbx.client.files.Move(ctx, rpc(f.sbx, userOf(opts), &filesystem.MoveRequest{Source: from, Destination: to}))
	if err != nil {
		return Entry{}, f.sbx.fail(ctx, err)
	}
	return entry(reply.Msg.GetEntry()), nil
}

// Remove removes a file, or a directory with all it holds. That there is none
// is no error.
func (f *Files) Remove(ctx context.Context, path string, opts ...FileOption) error {
	_, err := f.sbx.client.files.Remove(ctx, rpc(f.sbx, userOf(opts), &filesystem.RemoveRequest{Path: path}))
	return f.sbx.fail(ctx, err)
}

var entryTypes = map[filesystem.FileType]EntryType{
	filesystem.FileType_FILE_TYPE_FILE:      FileEntry,
	filesystem.FileType_FILE_TYPE_DIRECTORY: DirEntry,
	filesystem.FileType_FILE_TYPE_SYMLINK:   SymlinkEntry,
}

func entry(e *filesystem.EntryInfo) Entry {
	kind, known := entryTypes[e.GetType()]
	if !known {
		kind = OtherEntry
	}
	return Entry{
		Name: e.GetName(), Path: e.GetPath(), Type: kind, Size: e.GetSize(), Mode: fs.FileMode(e.GetMode()),
		Owner: e.GetOwner(), Group: e.GetGroup(), ModTime: e.GetModifiedTime().AsTime(), SymlinkTarget: e.GetSymlinkTarget(),
	}
}
