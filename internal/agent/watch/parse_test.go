package watch

import (
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func raw(wd int32, mask, cookie uint32, name string, pad int) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
	b = binary.NativeEndian.AppendUint32(b, mask)
	b = binary.NativeEndian.AppendUint32(b, cookie)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)+pad))
	return append(append(b, name...), make([]byte, pad)...)
}

// FuzzParse finds buffers that are read past their end, or for ever, or give
// names that lead out of a directory.
func FuzzParse(f *testing.F) {
	f.Add(raw(1, unix.IN_CREATE|unix.IN_ISDIR, 0, "name", 12))
	f.Add(append(raw(3, unix.IN_MOVED_FROM, 77, "a\xff\nb", 10), raw(4, unix.IN_MOVED_TO, 77, strings.Repeat("x", 255), 1)...))
	f.Add(raw(-1, unix.IN_Q_OVERFLOW, 0, "", 0))
	f.Add(append(raw(1, unix.IN_IGNORED, 0, "", 0), 1, 2, 3))
	f.Add(raw(1, unix.IN_CREATE, 0, "../x", 12))
	f.Add([]byte("\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, buf []byte) {
		for left := buf; len(left) > 0; {
			e, size, ok := parse(left)
			if !ok {
				return
			}
			if size < unix.SizeofInotifyEvent || size > len(left) {
				t.Fatalf("size %d of %d bytes", size, len(left))
			}
			if strings.ContainsAny(e.name, "/\x00") || e.name == "." || e.name == ".." {
				t.Fatalf("name %q", e.name)
			}
			left = left[size:]
		}
	})
}

func TestParse(t *testing.T) {
	buf := append(raw(7, unix.IN_MOVED_TO, 9, "na\xffme", 11), raw(-1, unix.IN_Q_OVERFLOW, 0, "", 0)...)
	e, size, ok := parse(buf)
	if want := (event{7, unix.IN_MOVED_TO, 9, "na\xffme"}); e != want || size != 32 || !ok {
		t.Errorf("%+v, %d, %v", e, size, ok)
	}
	if e, size, ok = parse(buf[size:]); e.wd != -1 || e.name != "" || size != 16 || !ok {
		t.Errorf("%+v, %d, %v", e, size, ok)
	}
	for _, bad := range [][]byte{nil, buf[:15], buf[:31], raw(1, unix.IN_CREATE, 0, "..", 14), raw(1, unix.IN_CREATE, 0, "a/b", 13)} {
		if _, _, ok := parse(bad); ok {
			t.Errorf("%q was taken for an event", bad)
		}
	}
}
