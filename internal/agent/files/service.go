// Package files is the agent's view of the sandbox's files: the filesystem
// service and the transfer of whole files over HTTP. It acts with the agent's
// own rights and gives what it makes to the user of the request. Only the agent
// imports it.
package files

import (
	"compress/gzip"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/watch"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Options are what the service needs of the agent. All fields are required.
type Options struct {
	Logger   *slog.Logger
	Accounts *account.DB
	// User returns whom a request with this Authorization header acts as; Named
	// returns the account of a name, the default one if it is empty.
	User  func(authorization string) (account.User, error)
	Named func(name string) (account.User, error)
	// Chown says that what is made is given to the user: the agent is root.
	Chown bool
}

// Service implements the filesystem service and /files. It is safe for
// concurrent use. Whoever made it closes it.
type Service struct {
	opts    Options
	buffers buffers
	// squeezers bounds the downloads being compressed, each of which costs most of
	// a megabyte.
	squeezers chan *gzip.Writer
	hub       *watch.Hub
	width     width

	mu     sync.Mutex
	closed bool
	// polled are the watchers made by CreateWatcher, by their names.
	polled map[string]*polled
}

var _ filesystemconnect.FilesystemHandler = (*Service)(nil)

// New returns a Service that watches nothing yet.
func New(opts Options) *Service {
	return &Service{opts: opts, squeezers: newSqueezers(), hub: watch.New(meaning), polled: map[string]*polled{}}
}

// Stat describes one path, a symbolic link itself.
func (s *Service) Stat(_ context.Context, req *connect.Request[pb.StatRequest]) (*connect.Response[pb.StatResponse], error) {
	path, _, err := s.locate(req, req.Msg.GetPath())
	if err != nil {
		return nil, s.fail(err)
	}
	entry, err := s.describe(path)
	if err != nil {
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.StatResponse{Entry: entry}), nil
}

// MakeDir makes a directory and its missing parents.
func (s *Service) MakeDir(_ context.Context, req *connect.Request[pb.MakeDirRequest]) (*connect.Response[pb.MakeDirResponse], error) {
	path, user, err := s.locateNamed(req, req.Msg.GetPath())
	if err == nil {
		err = s.makeDir(path, user)
	}
	if err != nil {
		return nil, s.fail(err)
	}
	entry, err := s.describe(path)
	if err != nil {
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.MakeDirResponse{Entry: entry}), nil
}

func (s *Service) makeDir(path string, user account.User) error {
	switch info, err := statTarget(path); {
	case err == nil && info.IsDir():
		return errs.New(errs.Conflict, "directory %s already exists", path)
	case err == nil:
		return errs.New(errs.Invalid, "%s exists and is not a directory", path)
	}
	return s.ensureDir(path, user)
}

// Move renames a file or directory, replacing a file, and makes the missing
// parents of the destination.
func (s *Service) Move(ctx context.Context, req *connect.Request[pb.MoveRequest]) (*connect.Response[pb.MoveResponse], error) {
	source, user, err := s.locateNamed(req, req.Msg.GetSource())
	if err != nil {
		return nil, s.fail(err)
	}
	destination, _, err := s.locateNamed(req, req.Msg.GetDestination())
	if err != nil {
		return nil, s.fail(err)
	}
	if err := s.move(ctx, source, destination, user); err != nil {
		return nil, s.fail(err)
	}
	entry, err := s.describe(destination)
	if err != nil {
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.MoveResponse{Entry: entry}), nil
}

// Remove removes a file or a directory with all it holds. A missing path is no
// error.
func (s *Service) Remove(_ context.Context, req *connect.Request[pb.RemoveRequest]) (*connect.Response[pb.RemoveResponse], error) {
	path, _, err := s.locateNamed(req, req.Msg.GetPath())
	if err == nil && path == "/" {
		err = errs.New(errs.Invalid, "the root directory cannot be removed")
	}
	if err == nil {
		err = wire.Errno(os.RemoveAll(path), "remove", path)
	}
	if err != nil {
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.RemoveResponse{}), nil
}

// locate returns the absolute path a request means, and its user.
func (s *Service) locate(req connect.AnyRequest, path string) (string, account.User, error) {
	user, err := s.opts.User(req.Header().Get("Authorization"))
	if err != nil {
		return "", user, err
	}
	path, err = resolve(path, user)
	return path, user, err
}

// locateNamed is locate for calls that change something: there an empty path is
// more likely a mistake than the home directory.
func (s *Service) locateNamed(req connect.AnyRequest, path string) (string, account.User, error) {
	if path == "" {
		return "", account.User{}, errs.New(errs.Invalid, "the path is empty")
	}
	return s.locate(req, path)
}

func resolve(path string, user account.User) (string, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return "", errs.New(errs.Invalid, "a path cannot contain a NUL byte")
	}
	return account.Expand(path, user), nil
}

// fail turns err into the client's error and logs what the client is not told.
func (s *Service) fail(err error) error {
	if errs.KindOf(err) == errs.Internal {
		s.opts.Logger.Error("file request failed", "error", err)
	}
	return wire.Error(err)
}

// ensureDir makes a directory and its missing parents, owned by user. One that
// appears meanwhile is fine.
func (s *Service) ensureDir(path string, user account.User) error {
	err := syscall.Mkdir(path, 0o755)
	if err == syscall.ENOENT && path != "/" {
		if err := s.ensureDir(filepath.Dir(path), user); err != nil {
			return err
		}
		err = syscall.Mkdir(path, 0o755)
	}
	switch {
	case err == syscall.EEXIST:
		return s.checkDir(path)
	case err != nil:
		return wire.Errno(err, "make directory", path)
	case s.opts.Chown:
		return wire.Errno(os.Lchown(path, int(user.UID), int(user.GID)), "set owner of", path)
	}
	return nil
}

func (s *Service) checkDir(path string) error {
	info, err := statTarget(path)
	if err != nil {
		return wire.Errno(err, "make directory", path)
	}
	if !info.IsDir() {
		return errs.New(errs.Invalid, "%s exists and is not a directory", path)
	}
	return nil
}
