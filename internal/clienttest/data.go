package clienttest

import (
	"cmp"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
	"github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
	"github.com/sandlot-dev/sandlot/gen/rest"
)

// processes are the running commands of a box.
type processes struct {
	mu  sync.Mutex
	all map[uint32]*running
}

type running struct {
	info  *process.ProcessInfo
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

func (p *processes) add(r *running) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[uint32]*running{}
	}
	p.all[r.info.GetPid()] = r
}

func (p *processes) remove(pid uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, pid)
}

func (p *processes) find(s *process.ProcessSelector) (*running, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.all {
		if r.info.GetPid() == s.GetPid() || s.GetTag() != "" && r.info.GetTag() == s.GetTag() {
			return r, nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("no such process"))
}

func (p *processes) killAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.all {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
	}
}

type processService struct {
	processconnect.UnimplementedProcessHandler
	box *box
}

// sender passes what a command writes to its stream, one event per write.
type sender struct {
	mu     *sync.Mutex
	stream *connect.ServerStream[process.StartResponse]
	wrap   func([]byte) *process.ProcessEvent_DataEvent
}

func (s sender) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	event := &process.ProcessEvent{Event: &process.ProcessEvent_Data{Data: s.wrap(append([]byte{}, p...))}}
	return len(p), s.stream.Send(&process.StartResponse{Event: event})
}

func stdoutEvent(b []byte) *process.ProcessEvent_DataEvent {
	return &process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stdout{Stdout: b}}
}

func stderrEvent(b []byte) *process.ProcessEvent_DataEvent {
	return &process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stderr{Stderr: b}}
}

// Start runs a command on the host. Unlike a real agent it kills the command
// when the stream ends, so that tests leave nothing behind.
func (s *processService) Start(ctx context.Context, req *connect.Request[process.StartRequest], stream *connect.ServerStream[process.StartResponse]) error {
	cmd := s.command(ctx, req)
	var mu sync.Mutex
	cmd.Stdout, cmd.Stderr = sender{&mu, stream, stdoutEvent}, sender{&mu, stream, stderrEvent}
	r := &running{cmd: cmd, info: &process.ProcessInfo{Config: req.Msg.GetProcess(), Tag: req.Msg.Tag}}
	if req.Msg.Stdin == nil || req.Msg.GetStdin() {
		r.stdin, _ = cmd.StdinPipe()
	}
	mu.Lock() // no output before the start event
	if err := cmd.Start(); err != nil {
		mu.Unlock()
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	r.info.Pid = uint32(cmd.Process.Pid)
	s.box.procs.add(r)
	err := stream.Send(&process.StartResponse{Event: &process.ProcessEvent{Event: &process.ProcessEvent_Start{
		Start: &process.ProcessEvent_StartEvent{Pid: r.info.GetPid()},
	}}})
	mu.Unlock()
	if err != nil {
		_ = cmd.Cancel()
	}
	_ = cmd.Wait()
	s.box.procs.remove(r.info.GetPid())
	if _, err := os.Stat(s.box.dir); err != nil {
		panic(http.ErrAbortHandler) // the sandbox is gone: so is its connection
	}
	return stream.Send(&process.StartResponse{Event: endEvent(cmd.ProcessState)})
}

func (s *processService) command(ctx context.Context, req *connect.Request[process.StartRequest]) *exec.Cmd {
	cfg := req.Msg.GetProcess()
	cmd := exec.CommandContext(ctx, cfg.GetCmd(), cfg.GetArgs()...)
	cmd.Dir = cmp.Or(cfg.GetCwd(), s.box.dir)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + s.box.dir}
	if user, _, ok := (&http.Request{Header: req.Header()}).BasicAuth(); ok {
		cmd.Env = append(cmd.Env, "FAKE_USER="+user)
	}
	for _, env := range []map[string]string{s.box.env, cfg.GetEnvs()} {
		for k, v := range env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

func endEvent(state *os.ProcessState) *process.ProcessEvent {
	end := &process.ProcessEvent_EndEvent{ExitCode: int32(state.ExitCode()), Exited: state.Exited(), Status: state.String()}
	return &process.ProcessEvent{Event: &process.ProcessEvent_End{End: end}}
}

// List lists the running commands.
func (s *processService) List(context.Context, *connect.Request[process.ListRequest]) (*connect.Response[process.ListResponse], error) {
	s.box.procs.mu.Lock()
	defer s.box.procs.mu.Unlock()
	out := &process.ListResponse{}
	for _, r := range s.box.procs.all {
		out.Processes = append(out.Processes, r.info)
	}
	return connect.NewResponse(out), nil
}

// SendInput writes to a command's standard input.
func (s *processService) SendInput(_ context.Context, req *connect.Request[process.SendInputRequest]) (*connect.Response[process.SendInputResponse], error) {
	r, err := s.box.procs.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if r.stdin == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("standard input is not open"))
	}
	if _, err := r.stdin.Write(req.Msg.GetInput().GetStdin()); err != nil {
		return nil, connect.NewError(connect.CodeNotFound, err)
	}
	return connect.NewResponse(&process.SendInputResponse{}), nil
}

// CloseStdin ends a command's standard input.
func (s *processService) CloseStdin(_ context.Context, req *connect.Request[process.CloseStdinRequest]) (*connect.Response[process.CloseStdinResponse], error) {
	r, err := s.box.procs.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if r.stdin != nil {
		_ = r.stdin.Close()
	}
	return connect.NewResponse(&process.CloseStdinResponse{}), nil
}

// SendSignal signals a command and its children.
func (s *processService) SendSignal(_ context.Context, req *connect.Request[process.SendSignalRequest]) (*connect.Response[process.SendSignalResponse], error) {
	r, err := s.box.procs.find(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	_ = syscall.Kill(-r.cmd.Process.Pid, syscall.Signal(req.Msg.GetSignal()))
	return connect.NewResponse(&process.SendSignalResponse{}), nil
}

// host returns where a path inside a box is on the host.
func (b *box) host(p string) string {
	return filepath.Join(b.dir, path.Clean("/"+strings.TrimPrefix(p, "/home/user")))
}

// inside is the opposite of host.
func (b *box) inside(p string) string { return "/home/user" + strings.TrimPrefix(p, b.dir) }

func (b *box) serveFiles(w http.ResponseWriter, r *http.Request) {
	where := b.host(r.URL.Query().Get("path"))
	if r.Method == http.MethodGet {
		if info, err := os.Stat(where); err != nil || info.IsDir() {
			refuse(w, http.StatusNotFound, "file "+r.URL.Query().Get("path")+" does not exist")
			return
		}
		http.ServeFile(w, r, where)
		return
	}
	written := []rest.StringMap{}
	store := func(where string, body io.Reader) error {
		data, err := io.ReadAll(body)
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Dir(where), 0o700), os.WriteFile(where, data, 0o600))
		}
		written = append(written, rest.StringMap{"path": b.inside(where), "name": filepath.Base(where), "type": "file"})
		return err
	}
	err := b.eachPart(r, store)
	if errors.Is(err, http.ErrNotMultipart) {
		err = store(where, r.Body)
	}
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	reply(w, http.StatusOK, written)
}

// eachPart stores the files of a form, whose names are whole paths.
func (b *box) eachPart(r *http.Request, store func(string, io.Reader) error) error {
	form, err := r.MultipartReader()
	if err != nil {
		return err
	}
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
		if err == nil {
			err = store(b.host(params["filename"]), part)
		}
		if err != nil {
			return err
		}
	}
}

type fileService struct {
	filesystemconnect.UnimplementedFilesystemHandler
	box *box
}

func (s *fileService) stat(where string) (*filesystem.EntryInfo, error) {
	info, err := os.Lstat(where)
	if err != nil {
		return nil, connect.NewError(connect.CodeNotFound, errors.New(s.box.inside(where)+" does not exist"))
	}
	e := &filesystem.EntryInfo{
		Name: info.Name(), Path: s.box.inside(where), Size: info.Size(), Mode: uint32(info.Mode().Perm()),
		Type: filesystem.FileType_FILE_TYPE_FILE, Owner: "user", Group: "user", ModifiedTime: timestamppb.New(info.ModTime()),
	}
	if info.IsDir() {
		e.Type = filesystem.FileType_FILE_TYPE_DIRECTORY
	}
	return e, nil
}

// Stat describes a path.
func (s *fileService) Stat(_ context.Context, req *connect.Request[filesystem.StatRequest]) (*connect.Response[filesystem.StatResponse], error) {
	e, err := s.stat(s.box.host(req.Msg.GetPath()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.StatResponse{Entry: e}), nil
}

// MakeDir makes a directory.
func (s *fileService) MakeDir(_ context.Context, req *connect.Request[filesystem.MakeDirRequest]) (*connect.Response[filesystem.MakeDirResponse], error) {
	where := s.box.host(req.Msg.GetPath())
	if _, err := os.Stat(where); err == nil {
		return nil, connect.NewError(connect.CodeAlreadyExists, errors.New("exists already"))
	}
	if err := os.MkdirAll(where, 0o700); err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.MakeDirResponse{}), nil
}

// Move renames.
func (s *fileService) Move(_ context.Context, req *connect.Request[filesystem.MoveRequest]) (*connect.Response[filesystem.MoveResponse], error) {
	to := s.box.host(req.Msg.GetDestination())
	if err := os.Rename(s.box.host(req.Msg.GetSource()), to); err != nil {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("does not exist"))
	}
	e, err := s.stat(to)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.MoveResponse{Entry: e}), nil
}

// Remove removes a path with all below it.
func (s *fileService) Remove(_ context.Context, req *connect.Request[filesystem.RemoveRequest]) (*connect.Response[filesystem.RemoveResponse], error) {
	return connect.NewResponse(&filesystem.RemoveResponse{}), os.RemoveAll(s.box.host(req.Msg.GetPath()))
}

// ListDir lists a tree to a depth.
func (s *fileService) ListDir(_ context.Context, req *connect.Request[filesystem.ListDirRequest]) (*connect.Response[filesystem.ListDirResponse], error) {
	root := s.box.host(req.Msg.GetPath())
	out := &filesystem.ListDirResponse{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		switch depth := strings.Count(rel, "/") + 1; {
		case err != nil || rel == ".":
			return err
		case depth > int(req.Msg.GetDepth()):
			return filepath.SkipDir
		}
		e, err := s.stat(p)
		out.Entries = append(out.Entries, e)
		return err
	})
	if err != nil {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("does not exist"))
	}
	return connect.NewResponse(out), nil
}
