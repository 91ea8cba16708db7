package image

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Limits bound what one image may hold, against hostile and runaway input.
type Limits struct {
	// Entries bounds the number of files, directories and links.
	Entries int
	// Bytes bounds the sum of the sizes of the files.
	Bytes int64
}

// DefaultLimits are far above any sensible image: 2 million entries, 64 GiB.
func DefaultLimits() Limits { return Limits{Entries: 2_000_000, Bytes: 64 << 30} }

func (l Limits) orDefault() Limits {
	d := DefaultLimits()
	return Limits{Entries: cmp.Or(l.Entries, d.Entries), Bytes: cmp.Or(l.Bytes, d.Bytes)}
}

const (
	maxPath   = 4095  // PATH_MAX without its final zero
	maxName   = 255   // NAME_MAX
	maxID     = 65535 // a sandbox has 65,536 user and group ids
	maxXattrs = 64 << 10
)

// entry is one file of an image, as every format can keep it.
type entry struct {
	// path is clean and relative to the root, which is ".".
	path string
	// mode has the type and, of the rest, permissions, setuid, setgid and sticky.
	mode     fs.FileMode
	uid, gid uint32
	size     int64 // of regular files
	mtime    time.Time
	link     string // target of a symbolic link
	xattrs   map[string]string
}

const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// cleanName returns the path of a tar entry, or an error if it could mean
// anything outside of the image or cannot be kept.
func cleanName(name string) (string, error) {
	switch {
	case name == "":
		return "", hostile(name, "its name is empty")
	case strings.HasPrefix(name, "/"):
		return "", hostile(name, "its name is absolute")
	case strings.ContainsRune(name, 0):
		return "", hostile(name, "its name holds a zero byte")
	case len(name) > maxPath:
		return "", hostile(name[:64]+"…", "its name is too long")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", hostile(name, "its name leads out of the image")
		}
		if len(part) > maxName {
			return "", hostile(part[:64]+"…", "its name is too long")
		}
	}
	return path.Clean(name), nil
}

// check refuses what no format can keep.
func (e entry) check() error {
	if e.uid > maxID || e.gid > maxID {
		return hostile(e.path, fmt.Sprintf("its owner %d:%d is outside the 65,536 ids of a sandbox", e.uid, e.gid))
	}
	switch e.mode.Type() {
	case 0, fs.ModeDir, fs.ModeNamedPipe:
	case fs.ModeSymlink:
		if e.link == "" || len(e.link) > maxPath || strings.ContainsRune(e.link, 0) {
			return hostile(e.path, "its link target is empty, too long or holds a zero byte")
		}
	default:
		return hostile(e.path, "it is a device or a socket; images hold none outside of /dev")
	}
	total := 0
	for k, v := range e.xattrs {
		total += len(k) + len(v)
	}
	if total > maxXattrs {
		return hostile(e.path, "its extended attributes are too large")
	}
	return nil
}

// keepXattr reports whether an extended attribute belongs to the content of an
// image. File capabilities and user attributes do; what a host's security
// module or overlay file system keeps there does not, and would be dangerous.
func keepXattr(name string) bool {
	return name == "security.capability" || strings.HasPrefix(name, "user.")
}

func hostile(name, why string) error {
	return errs.New(errs.Invalid, "the archive's entry %q cannot be in an image: %s", name, why)
}
