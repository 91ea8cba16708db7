package process

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// defaultPath is where programs are looked for unless the sandbox or the call
// sets PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command is everything decided about a process before it is forked.
type command struct {
	path string
	argv []string
	env  []string
	dir  string
	user account.User
}

// plan turns a request into a command, or says what is wrong with it.
func (s *Service) plan(req *pb.StartRequest, user account.User) (*command, error) {
	config := req.GetProcess()
	if config.GetCmd() == "" {
		return nil, errs.New(errs.Invalid, "process.cmd is empty; name the program to run")
	}
	c := &command{argv: append([]string{config.GetCmd()}, config.GetArgs()...), user: user}
	vars, err := environment(user, s.opts.Env(), config.GetEnvs())
	if err != nil {
		return nil, err
	}
	if c.dir, err = s.workdir(config.Cwd, user); err != nil {
		return nil, err
	}
	if c.path, err = lookPath(config.GetCmd(), vars["PATH"], c.dir); err != nil {
		return nil, err
	}
	if req.GetPty() != nil && vars["TERM"] == "" {
		vars["TERM"] = defaultTERM
	}
	c.env = make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		c.env = append(c.env, name+"="+vars[name])
	}
	return c, checkNUL(c)
}

// environment merges the user's basic variables, the sandbox's and the call's,
// later ones winning.
func environment(user account.User, sandbox, call map[string]string) (map[string]string, error) {
	vars := make(map[string]string, 4+len(sandbox)+len(call))
	vars["PATH"] = defaultPath
	vars["HOME"] = user.Home
	vars["USER"] = user.Name
	vars["LOGNAME"] = user.Name
	maps.Copy(vars, sandbox)
	maps.Copy(vars, call)
	for name := range call {
		if name == "" || strings.ContainsRune(name, '=') {
			return nil, errs.New(errs.Invalid, "%q cannot be the name of an environment variable", name)
		}
	}
	return vars, nil
}

// workdir returns the directory to run in: as asked for (from the home directory
// if relative), else the sandbox's default, else the home directory, else /. The
// default is the default user's, and closed to others as their home directories
// are: it holds for that user and for root, who may go anywhere.
func (s *Service) workdir(asked *string, user account.User) (string, error) {
	var dir string
	switch {
	case asked != nil && *asked != "":
		dir = *asked
	case user.UID == 0 || s.isDefault(user):
		dir = s.opts.Workdir()
	}
	if dir == "" {
		if isDir(user.Home) {
			return user.Home, nil
		}
		return "/", nil
	}
	dir = account.Expand(dir, user)
	if !isDir(dir) {
		return "", errs.New(errs.Invalid, "the working directory %q does not exist or is not a directory", dir)
	}
	return dir, nil
}

// isDefault reports whether requests that name nobody act as user.
func (s *Service) isDefault(user account.User) bool {
	usual, err := s.opts.User("")
	return err == nil && usual.UID == user.UID
}

func isDir(path string) bool {
	var st syscall.Stat_t
	return syscall.Stat(path, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFDIR
}

// lookPath finds the program. A name with a slash is used as it is; its errors
// come from the kernel.
func lookPath(name, path, dir string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	for entry := range strings.SplitSeq(path, ":") {
		if !filepath.IsAbs(entry) {
			entry = filepath.Join(dir, entry)
		}
		candidate := entry + "/" + name
		var st syscall.Stat_t
		if syscall.Stat(candidate, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Mode&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", errs.New(errs.NotFound, "program %q not found in PATH=%s", name, path)
}

// checkNUL refuses what the kernel cannot represent.
func checkNUL(c *command) error {
	for _, list := range [][]string{c.argv, c.env, {c.dir}} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return errs.New(errs.Invalid, "the command, its environment and its directory cannot contain NUL bytes")
			}
		}
	}
	return nil
}

// launch starts a planned process with its outputs being read, if there may be
// one more. A limit > 0, the stream's, is when it is killed unless the request has
// an earlier one. The first subscriber sees all of its output.
func (s *Service) launch(c *command, req *pb.StartRequest, limit time.Duration) (*proc, *subscriber, error) {
	if err := s.admit(); err != nil {
		return nil, nil, err
	}
	p, sub, err := s.begin(c, req, limit)
	if err != nil {
		s.left()
	}
	return p, sub, err
}

func (s *Service) begin(c *command, req *pb.StartRequest, limit time.Duration) (*proc, *subscriber, error) {
	streams, err := s.streams(c, req)
	if err != nil {
		return nil, nil, startError(err, c)
	}
	p := &proc{
		config: req.GetProcess(), tag: req.Tag, io: streams, out: newOutput(), open: 1 + len(streams.outs),
		done: make(chan struct{}), onExit: s.left, onEnd: s.remove, limit: earlier(limit, req.GetTimeoutMs()),
	}
	sub, err := p.out.subscribe()
	if err == nil {
		err = s.fork(p, c)
	}
	streams.closeChild()
	if err != nil {
		streams.closeParent()
		return nil, nil, startError(err, c)
	}
	return p, sub, nil
}

// streams makes what the process reads from and writes to.
func (s *Service) streams(c *command, req *pb.StartRequest) (*stdio, error) {
	if req.GetPty() != nil {
		return newTerminal(req.GetPty(), c.user, s.opts.SwitchUser)
	}
	return newPipes(req.Stdin == nil || req.GetStdin())
}

// fork starts p and makes it known. It holds p.mu, so that an exit at once finds
// p complete.
func (s *Service) fork(p *proc, c *command) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child, err = s.opts.Reaper.Start(c.path, c.argv, s.attributes(p, c), p.exited)
	if err != nil {
		return err
	}
	p.pid = p.child.PID()
	s.add(p)
	if p.limit.after > 0 {
		p.deadline = time.AfterFunc(p.limit.after, p.expire)
	}
	for i, pp := range p.io.outs {
		s.wg.Go(func() {
			if i == 0 {
				offerToOOMKiller(p.pid) // beside the start event, not before it
			}
			s.pump(p, pp)
		})
	}
	return nil
}

func (s *Service) attributes(p *proc, c *command) *syscall.ProcAttr {
	// A session of its own, and in a terminal the session that the terminal
	// controls: its descriptor in the child is 0.
	attr := &syscall.ProcAttr{Dir: c.dir, Env: c.env, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: p.io.terminal}}
	for _, fd := range p.io.child {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	if s.opts.SwitchUser {
		attr.Sys.Credential = &syscall.Credential{Uid: c.user.UID, Gid: c.user.GID, Groups: c.user.Groups}
	}
	return attr
}

// startError says why a process could not be started, before its first event.
func startError(err error, c *command) error {
	var errno syscall.Errno
	if errs.KindOf(err) != errs.Internal {
		return err
	}
	if !errors.As(err, &errno) {
		return fmt.Errorf("start %s: %w", c.argv[0], err)
	}
	kind, text := errs.Internal, errno.Error()
	switch errno {
	case syscall.ENOENT:
		kind, text = errs.NotFound, missing(c)
	case syscall.EACCES, syscall.EPERM:
		kind, text = errs.Invalid, "permission denied for user "+c.user.Name+" (in "+c.dir+")"
	case syscall.ENOTDIR, syscall.ENOEXEC, syscall.E2BIG, syscall.ETXTBSY, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EINVAL, syscall.EISDIR:
		kind = errs.Invalid
	case syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE:
		kind, text = errs.Exhausted, errno.Error()+" (the sandbox is at its limit of processes, memory or open files)"
	}
	return errs.Wrap(err, kind, "start %s: %s", c.argv[0], text)
}

// missing tells a missing program from one whose interpreter is missing.
func missing(c *command) string {
	path := c.path
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.dir, path)
	}
	if _, err := os.Stat(path); err == nil {
		return "the program is there, but its interpreter is missing"
	}
	return "no such program"
}
