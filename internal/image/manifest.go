package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"slices"
	"strings"
)

// manifest collects what an image holds and hashes it. Each entry gives one
// SHA-256; the digest of the image is the SHA-256 of these in the order of
// their paths. So the digest depends on content alone: not on the order of the
// archive, not on the format on disk, not on which of two hard-linked names
// came first.
type manifest struct {
	lines map[string]line
}

type line struct {
	sum     [sha256.Size]byte
	content []byte // hash of a regular file's bytes
}

// newContentHash returns the hash a file's bytes go through.
func newContentHash() hash.Hash { return sha256.New() }

// add records an entry whose bytes went through content.
func (m *manifest) add(e entry, content hash.Hash) {
	var sum []byte
	if e.mode.IsRegular() {
		sum = content.Sum(nil)
	}
	m.put(e, sum)
}

// addCopy records another name for the file recorded as old.
func (m *manifest) addCopy(e entry, old string) { m.put(e, m.lines[old].content) }

func (m *manifest) put(e entry, content []byte) {
	if m.lines == nil {
		m.lines = map[string]line{}
	}
	m.lines[e.path] = line{sum: sha256.Sum256(record(e, content)), content: content}
}

// record is an entry in the form that is hashed. It must never change: it is
// the meaning of every digest on every disk.

func record(e entry, content []byte) []byte {
	var b bytes.Buffer
	size := e.size
	if !e.mode.IsRegular() {
		size = 0 // each format has its own idea of the size of a directory
	}
	fmt.Fprintf(&b, "%q %o %d:%d %d %d.%09d %q %x", e.path, uint32(e.mode), e.uid, e.gid, size,
		e.mtime.Unix(), e.mtime.Nanosecond(), e.link, content)
	for _, k := range slices.Sorted(maps.Keys(e.xattrs)) {
		fmt.Fprintf(&b, " %q=%q", k, e.xattrs[k])
	}
	return b.Bytes()
}

// digest returns the name of the image.
func (m *manifest) digest() string {
	h := sha256.New()
	for _, p := range slices.SortedFunc(maps.Keys(m.lines), strings.Compare) {
		sum := m.lines[p].sum
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}
