package files

import (
	"bytes"
	"context"
	"os"
	"slices"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// maxEntries bounds a listing that is built in memory: the rare kind that
	// Lists does not stream.
	maxEntries = 100_000
	// maxOpen bounds the directories one listing holds open.
	maxOpen = 32
)

// ListDir lists a directory, and those in it down to the depth asked for, each
// directory before what it holds, sorted by name.
func (s *Service) ListDir(ctx context.Context, req *connect.Request[pb.ListDirRequest]) (*connect.Response[pb.ListDirResponse], error) {
	var entries []*pb.EntryInfo
	err := s.list(ctx, req.Header().Get("Authorization"), req.Msg, func(l *lister) error {
		if len(entries) >= maxEntries {
			return errs.New(errs.Exhausted, "more than %d entries under this directory; list a smaller one or with less depth", maxEntries)
		}
		entries = append(entries, l.entry)
		l.entry = &pb.EntryInfo{}
		return nil
	})
	if err != nil {
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.ListDirResponse{Entries: entries}), nil
}

// list calls emit for every entry of a listing.
func (s *Service) list(ctx context.Context, authorization string, req *pb.ListDirRequest, emit func(*lister) error) error {
	if req.GetDepth() < 1 {
		return errs.New(errs.Invalid, "depth must be at least 1")
	}
	user, err := s.opts.User(authorization)
	if err != nil {
		return err
	}
	path, err := resolve(req.GetPath(), user)
	if err != nil {
		return err
	}
	l := &lister{ctx: ctx, width: &s.width, emit: emit, entry: &pb.EntryInfo{}}
	l.owner, l.group = s.opts.Accounts.Names()
	return l.list(path, req.GetDepth())
}

// lister walks for one listing.
type lister struct {
	ctx          context.Context //nolint:containedctx // lives for one call
	width        *width
	owner, group func(uint32) string
	// emit is told that entry describes the next file.
	emit  func(*lister) error
	entry *pb.EntryInfo
	open  int

	lastMode uint32
	lastText string
}

// list emits what dir holds. dir itself may be a link to a directory.
func (l *lister) list(dir string, depth uint32) error {
	f, err := openFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK)
	if err != nil {
		return wire.Errno(err, "list", dir)
	}
	names, err := readNames(f)
	if err != nil {
		_ = f.Close()
		return wire.Errno(err, "list", dir)
	}
	at := int(f.Fd())
	if l.open >= maxOpen {
		_ = f.Close()
		at, f = unix.AT_FDCWD, nil
	}
	l.open++
	err = l.walk(at, dir, names, depth)
	l.open--
	if f != nil {
		_ = f.Close()
	}
	return err
}

// walk emits the named entries of dir, each directory followed by what it holds.
// at is dir's descriptor, AT_FDCWD if it is not kept open.
func (l *lister) walk(at int, dir string, names []string, depth uint32) error {
	look := l.width.newLook(at, dir, names)
	defer look.end()
	for _, name := range names {
		if err := l.ctx.Err(); err != nil {
			return errs.Wrap(err, errs.Timeout, "the listing was not done in time")
		}
		st := look.next()
		if st.gone {
			continue // what vanishes meanwhile was not there
		}
		path := look.prefix + name
		l.describe(l.entry, path, name, &st)
		if err := l.emit(l); err != nil {
			return err
		}
		if depth > 1 && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := l.list(path, depth-1); err != nil && !skippable(err) {
				return err
			}
		}
	}
	return nil
}

// skippable says that a subdirectory which cannot be listed hides nothing else:
// it has vanished or changed, may not be read, or its path is too long.
func skippable(err error) bool {
	return errs.Is(err, errs.NotFound) || errs.Is(err, errs.Forbidden) || errs.Is(err, errs.Invalid)
}

// permissions remembers the last answer: files mostly look alike.
func (l *lister) permissions(mode uint32) string {
	if l.lastText == "" || mode != l.lastMode {
		l.lastMode, l.lastText = mode, permissions(mode)
	}
	return l.lastText
}

// readNames returns the sorted names in an open directory. They share memory: a
// directory may have a million.
func readNames(f *os.File) ([]string, error) {
	var all []byte // names, each with a zero byte after it
	var ends []int
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(int(f.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("getdents64", err)
		}
		if n <= 0 {
			break
		}
		for rest := buf[:n]; len(rest) > direntName; {
			length := int(rest[direntLength]) | int(rest[direntLength+1])<<8
			name := rest[direntName:length]
			name = name[:bytes.IndexByte(name, 0)]
			if string(name) != "." && string(name) != ".." {
				all = append(all, name...)
				ends = append(ends, len(all))
			}
			rest = rest[length:]
		}
	}
	text, start := string(all), 0
	names := make([]string, len(ends))
	for i, end := range ends {
		names[i], start = text[start:end], end
	}
	slices.Sort(names)
	return names, nil
}

// Offsets in struct linux_dirent64 (getdents64(2)); the length is little-endian
// on every machine Sandlot runs on.
const direntLength, direntName = 16, 19
