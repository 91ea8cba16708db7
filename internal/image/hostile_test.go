package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

func TestHostileArchives(t *testing.T) {
	dir := func(name string) item { return item{name: name, kind: tar.TypeDir, mode: 0o755} }
	link := func(name, to string) item { return item{name: name, kind: tar.TypeSymlink, link: to} }
	tests := map[string][]item{
		"leads up":              {{name: "../evil"}},
		"leads up later":        {dir("a/"), {name: "a/../../evil"}},
		"absolute":              {{name: "/etc/evil"}},
		"through a link out":    {link("a", "/tmp"), {name: "a/evil"}},
		"through a link inside": {dir("b/"), link("a", "b"), {name: "a/evil"}},
		"below a file":          {{name: "a"}, {name: "a/evil"}},
		"file over a directory": {dir("a/"), {name: "a"}},
		"file over a link":      {link("a", "/etc/passwd"), {name: "a"}},
		"link over a directory": {dir("a/"), link("a", "/etc")},
		"file twice":            {{name: "a"}, {name: "./a"}},
		"hard link out":         {{name: "a", kind: tar.TypeLink, link: "../../etc/passwd"}},
		"hard link absolute":    {{name: "a", kind: tar.TypeLink, link: "/etc/passwd"}},
		"hard link to nothing":  {{name: "a", kind: tar.TypeLink, link: "b"}},
		"hard link to a directory": {
			dir("d/"), {name: "a", kind: tar.TypeLink, link: "d"},
		},
		"hard link to itself": {{name: "a", kind: tar.TypeLink, link: "a"}},
		"device":              {{name: "disk", kind: tar.TypeBlock, mode: 0o666}},
		"whiteout":            {dir("a/"), {name: "a/gone", kind: tar.TypeChar}},
		"owner out of range":  {{name: "a", uid: 65536}},
		"root is a file":      {{name: "."}},
		"long name":           {{name: strings.Repeat("n", 256)}},
		"long path":           {{name: strings.Repeat("dir/", 1100) + "n"}},
		"long target":         {link("a", strings.Repeat("t", 4096))},
		"empty target":        {link("a", "")},
		"large attributes": {{name: "a", xattrs: map[string]string{
			"user.a": strings.Repeat("v", 65_000), "user.b": strings.Repeat("v", 1000),
		}}},
	}
	for _, f := range formats {
		for name, items := range tests {
			t.Run(string(f)+"/"+name, func(t *testing.T) {
				s := store(t, f)
				if _, err := s.WriteTar(t.Context(), archive(t, items...)); !errs.Is(err, errs.Invalid) {
					t.Errorf("WriteTar: %v, want %v", err, errs.Invalid)
				}
				empty(t, s)
			})
		}
	}
}

// empty checks that a failed write left nothing behind.
func empty(t *testing.T, s *Store) {
	t.Helper()
	left, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLimits(t *testing.T) {
	for _, f := range formats {
		s := store(t, f)
		s.limits = Limits{Entries: 4, Bytes: 100}
		many := []item{{name: "a"}, {name: "b"}, {name: "c"}, {name: "d"}, {name: "e"}}
		large := []item{{name: "a", body: strings.Repeat("x", 60)}, {name: "b", body: strings.Repeat("x", 60)}}
		// Hard links cost their size where they are copies.
		linked := []item{
			{name: "a", body: strings.Repeat("x", 60)},
			{name: "b", kind: tar.TypeLink, link: "a"},
		}
		for _, items := range [][]item{many, large, linked} {
			if _, err := s.WriteTar(t.Context(), archive(t, items...)); !errs.Is(err, errs.TooLarge) {
				t.Errorf("%s: %v, want %v", f, err, errs.TooLarge)
			}
			empty(t, s)
		}
	}
}

func TestBrokenStreamsLeaveNothing(t *testing.T) {
	broken := errors.New("the builder failed")
	whole, err := io.ReadAll(archive(t, system()...))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range formats {
		s := store(t, f)
		for _, n := range []int{0, 100, 512, 6000, len(whole) / 2, len(whole) - 1} {
			r := io.MultiReader(bytes.NewReader(whole[:n]), failing{broken})
			if _, err := s.WriteTar(t.Context(), r); !errors.Is(err, broken) {
				t.Errorf("%s: failed after %d bytes: %v, want %v", f, n, err, broken)
			}
			empty(t, s)
		}
		if _, err := s.WriteTar(t.Context(), bytes.NewReader(whole[:6000])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: cut off: %v, want %v", f, err, io.ErrUnexpectedEOF)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(broken)
		if _, err := s.WriteTar(ctx, bytes.NewReader(whole)); !errors.Is(err, broken) {
			t.Errorf("%s: cancelled: %v, want %v", f, err, broken)
		}
		empty(t, s)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestOpenSweepsDeadWriters(t *testing.T) {
	s := store(t, EROFS)
	living, err := s.temp()
	if err != nil {
		t.Fatal(err)
	}
	defer living.discard()
	dead := filepath.Join(s.dir, tempPrefix+"dead")
	if err := os.MkdirAll(filepath.Join(dead, rootName), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dead+"file", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenWith(s.dir, slog.New(slog.DiscardHandler), Options{Format: EROFS}); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, tempPrefix+"*"))
	if err != nil || len(left) != 1 || left[0] != living.path {
		t.Errorf("left after opening: %v, want only %s", left, living.path)
	}
}

func TestFullDisk(t *testing.T) {
	err := full(&os.PathError{Op: "write", Path: "x", Err: unix.ENOSPC})
	if !errs.Is(err, errs.NoSpace) {
		t.Errorf("full = %v, want %v", err, errs.NoSpace)
	}
}

func FuzzWriteTar(f *testing.F) {
	seed := func(items ...item) {
		b, err := io.ReadAll(archive(f, items...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seed(system()...)
	seed(item{name: "../evil"})
	seed(item{name: "a", kind: tar.TypeSymlink, link: "/"}, item{name: "a/evil", body: "x"})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, format := range formats {
			parent := t.TempDir()
			s, err := OpenWith(filepath.Join(parent, "images"), slog.New(slog.DiscardHandler),
				Options{Format: format, Limits: Limits{Entries: 1000, Bytes: 1 << 20}})
			if err != nil {
				t.Fatal(err)
			}
			s.volatile = true
			info, err := s.WriteTar(t.Context(), bytes.NewReader(b))
			if err != nil {
				empty(t, s)
			} else if _, err := s.Verify(t.Context(), info.Digest); err != nil {
				t.Errorf("%s: written, but %v", format, err)
			}
			if out, _ := os.ReadDir(parent); len(out) != 1 {
				t.Errorf("%s: written outside of the store: %v", format, out)
			}
		}
	})
}
