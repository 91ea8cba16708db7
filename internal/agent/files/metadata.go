package files

import (
	"errors"
	"net/http"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Metadata of a file is kept in extended attributes under this prefix.
const xattrPrefix = "user.e2b."

const (
	headerPrefix = "X-Metadata-"
	// maxMetadataKey is what the kernel leaves of 255 bytes beside the prefix.
	maxMetadataKey = 255 - len(xattrPrefix)
	// maxMetadata bounds all keys and values of one file, in bytes.
	maxMetadata = 4096
)

// metadataFrom returns the metadata in a request's headers, nil if none.
func metadataFrom(h http.Header) (map[string]string, error) {
	var m map[string]string
	total := 0
	for name, values := range h {
		key, ok := strings.CutPrefix(name, headerPrefix)
		if !ok {
			continue
		}
		key, value := strings.ToLower(key), values[0]
		if key == "" || len(key) > maxMetadataKey || !printable(key) || !printable(value) {
			return nil, errs.New(errs.Invalid, "metadata %q: keys have 1 to %d characters, and keys and values are printable ASCII", key, maxMetadataKey)
		}
		if total += len(key) + len(value); total > maxMetadata {
			return nil, errs.New(errs.Invalid, "the metadata is over %d bytes", maxMetadata)
		}
		if m == nil {
			m = map[string]string{}
		}
		m[key] = value
	}
	return m, nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// writeMetadata sets the metadata of an open new file.
func writeMetadata(fd int, m map[string]string, path string) error {
	for key, value := range m {
		err := unix.Fsetxattr(fd, xattrPrefix+key, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) {
			return errs.Wrap(err, errs.Unsupported, "the file system of %s keeps no metadata; write without X-Metadata headers", path)
		}
		if err != nil {
			return wire.Errno(err, "set metadata of", path)
		}
	}
	return nil
}

// readMetadata returns the metadata of a file, nil if it has none.
func readMetadata(path string) map[string]string {
	size, err := unix.Llistxattr(path, nil)
	if err != nil || size <= 0 {
		return nil
	}
	names := make([]byte, size)
	if size, err = unix.Llistxattr(path, names); err != nil {
		return nil
	}
	var m map[string]string
	for name := range strings.SplitSeq(string(names[:size]), "\x00") {
		key, ours := strings.CutPrefix(name, xattrPrefix)
		if !ours {
			continue
		}
		value := make([]byte, maxMetadata)
		n, err := unix.Lgetxattr(path, name, value)
		// Anybody may write attributes; only what a header can carry counts.
		if err != nil || !printable(key) || !printable(string(value[:n])) {
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		m[key] = string(value[:n])
	}
	return m
}
