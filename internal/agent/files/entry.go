package files

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
)

// describe returns the entry of one path.
func (s *Service) describe(path string) (*pb.EntryInfo, error) {
	st := facts{attributes: true}
	if err := unix.Lstat(path, &st.Stat_t); err != nil {
		return nil, wire.Errno(err, "stat", path)
	}
	owner, group := s.opts.Accounts.Names()
	l := &lister{owner: owner, group: group}
	e := &pb.EntryInfo{}
	l.describe(e, path, filepath.Base(path), &st)
	return e, nil
}

// describe fills in the entry of one file. A symbolic link has the type and mode
// of what it leads to, so that SDKs which know no links show it, and its own type
// when that is nothing.
func (l *lister) describe(e *pb.EntryInfo, path, name string, st *facts) {
	e.Name, e.Path, e.Size = valid(name), valid(path), st.Size
	e.Type, e.Mode, e.Permissions = fileType(st.Mode), st.Mode&0o777, l.permissions(st.Mode)
	e.Owner, e.Group = valid(l.owner(st.Uid)), valid(l.group(st.Gid))
	if e.ModifiedTime == nil {
		e.ModifiedTime = &timestamppb.Timestamp{}
	}
	setTimestamp(e.ModifiedTime, st.Mtim)
	e.SymlinkTarget, e.Metadata = nil, nil
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
		if st.attributes {
			e.Metadata = readMetadata(path)
		}
	default: // of directories and devices there is nothing more to say
	}
}

// valid makes a name fit for protobuf, whose strings are UTF-8; a file name may
// be anything.
func valid(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// setTimestamp keeps a file's time within what a Timestamp may say, years 1 to 9999.
func setTimestamp(to *timestamppb.Timestamp, t unix.Timespec) {
	const first, last = -62135596800, 253402300799
	to.Seconds, to.Nanos = min(max(t.Sec, first), last), int32(t.Nsec)
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
