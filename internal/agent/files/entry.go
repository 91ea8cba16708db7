package files

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// maxEntries bounds one listing, which is built in the sandbox's memory.
const maxEntries = 1_000_000

// describe returns the entry of one path.
func (s *Service) describe(path string) (*pb.EntryInfo, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, wire.Errno(err, "stat", path)
	}
	owner, group := s.opts.Accounts.Names()
	l := &lister{owner: owner, group: group}
	return l.entry(path, filepath.Base(path), &st), nil
}

// ListDir lists a directory, and those in it down to the depth asked for, each
// directory before what it holds, sorted by name.
func (s *Service) ListDir(ctx context.Context, req *connect.Request[pb.ListDirRequest]) (*connect.Response[pb.ListDirResponse], error) {
	if req.Msg.GetDepth() < 1 {
		return nil, s.fail(errs.New(errs.Invalid, "depth must be at least 1"))
	}
	path, _, err := s.locate(req, req.Msg.GetPath())
	if err != nil {
		return nil, s.fail(err)
	}
	l := &lister{ctx: ctx}
	l.owner, l.group = s.opts.Accounts.Names()
	if err := l.list(path, req.Msg.GetDepth()); err != nil {
		return nil, s.fail(err)
	}
	return connect.NewResponse(&pb.ListDirResponse{Entries: l.entries}), nil
}

// lister collects one listing.
type lister struct {
	ctx          context.Context //nolint:containedctx // lives for one call
	owner, group func(uint32) string
	entries      []*pb.EntryInfo
}

// list adds what dir holds. dir itself may be a link to a directory.
func (l *lister) list(dir string, depth uint32) error {
	if err := l.ctx.Err(); err != nil {
		return errs.Wrap(err, errs.Timeout, "the listing was not done in time")
	}
	f, err := openFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK)
	if err != nil {
		return wire.Errno(err, "list", dir)
	}
	names, err := f.Readdirnames(-1)
	if err == nil {
		slices.Sort(names)
		err = l.stat(f, dir, names, depth)
	}
	_ = f.Close()
	return err
}

// stat adds the named entries of the open directory f, each directory followed
// by what it holds.
func (l *lister) stat(f *os.File, dir string, names []string, depth uint32) error {
	prefix := dir + "/"
	if dir == "/" {
		prefix = dir
	}
	for _, name := range names {
		var st unix.Stat_t
		// What vanishes meanwhile was not there.
		if unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		if len(l.entries) >= maxEntries {
			return errs.New(errs.Exhausted, "more than %d entries under this directory; list a smaller one or with less depth", maxEntries)
		}
		path := prefix + name
		l.entries = append(l.entries, l.entry(path, name, &st))
		if depth > 1 && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err := l.list(path, depth-1)
			// Subdirectories that vanish or may not be read hide nothing else.
			if err != nil && !errs.Is(err, errs.NotFound) && !errs.Is(err, errs.Forbidden) {
				return err
			}
		}
	}
	return nil
}

// entry describes one file. A symbolic link has the type and mode of what it
// leads to, so that SDKs which know no links show it, and its own type when that
// is nothing.
func (l *lister) entry(path, name string, st *unix.Stat_t) *pb.EntryInfo {
	e := &pb.EntryInfo{
		Name: valid(name), Path: valid(path), Size: st.Size,
		Type: fileType(st.Mode), Mode: st.Mode & 0o777, Permissions: permissions(st.Mode),
		Owner: valid(l.owner(st.Uid)), Group: valid(l.group(st.Gid)),
		ModifiedTime: timestamp(st.Mtim),
	}
	switch e.Type {
	case pb.FileType_FILE_TYPE_SYMLINK:
		target, exists := follow(path)
		shown := valid(target)
		e.SymlinkTarget = &shown
		var t unix.Stat_t
		if exists && unix.Stat(target, &t) == nil {
			e.Type, e.Mode = fileType(t.Mode), t.Mode&0o777
		}
	case pb.FileType_FILE_TYPE_FILE:
		e.Metadata = readMetadata(path)
	default: // of directories and devices there is nothing more to say
	}
	return e
}

// valid makes a name fit for protobuf, whose strings are UTF-8; a file name may
// be anything.
func valid(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// timestamp keeps a file's time within what a Timestamp may say, years 1 to 9999.
func timestamp(t unix.Timespec) *timestamppb.Timestamp {
	const first, last = -62135596800, 253402300799
	return &timestamppb.Timestamp{Seconds: min(max(t.Sec, first), last), Nanos: int32(t.Nsec)}
}

// follow returns the absolute path a link leads to, resolved as far as it
// exists.
func follow(path string) (target string, exists bool) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target, true
	}
	target, err := os.Readlink(path)
	if err != nil {
		return path, false
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	return filepath.Clean(target), false
}

func fileType(mode uint32) pb.FileType {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return pb.FileType_FILE_TYPE_FILE
	case unix.S_IFDIR:
		return pb.FileType_FILE_TYPE_DIRECTORY
	case unix.S_IFLNK:
		return pb.FileType_FILE_TYPE_SYMLINK
	default:
		return pb.FileType_FILE_TYPE_UNSPECIFIED
	}
}

// permissions formats a mode as ls does.
func permissions(mode uint32) string {
	b := []byte("?rwxrwxrwx")
	switch mode & syscall.S_IFMT {
	case unix.S_IFREG:
		b[0] = '-'
	case unix.S_IFDIR:
		b[0] = 'd'
	case unix.S_IFLNK:
		b[0] = 'l'
	case unix.S_IFIFO:
		b[0] = 'p'
	case unix.S_IFSOCK:
		b[0] = 's'
	case unix.S_IFCHR:
		b[0] = 'c'
	case unix.S_IFBLK:
		b[0] = 'b'
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	special(b, 3, mode&unix.S_ISUID != 0, 's')
	special(b, 6, mode&unix.S_ISGID != 0, 's')
	special(b, 9, mode&unix.S_ISVTX != 0, 't')
	return string(b)
}

// special puts a letter in an execute column, upper case if it has no x.
func special(b []byte, at int, set bool, letter byte) {
	switch {
	case set && b[at] == 'x':
		b[at] = letter
	case set:
		b[at] = letter - 'a' + 'A'
	}
}
