package image

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

var formats = []Format{EROFS, Directory}

// stamp is the time of the entries that tests make.
var stamp = time.Unix(1_700_000_000, 123_456_789)

// item is an entry of a test archive. Zero values mean: a regular file, mode
// 0644, owned by whoever runs the test (others need root to unpack).
type item struct {
	name, link, body string
	kind             byte
	mode             int64
	xattrs           map[string]string
	uid              int
}

func archive(t testing.TB, items ...item) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := &tar.Header{
			Name: i.name, Linkname: i.link, Typeflag: i.kind, Mode: i.mode,
			Size: int64(len(i.body)), ModTime: stamp, Format: tar.FormatPAX,
			Uid: os.Getuid(), Gid: os.Getgid(),
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if i.uid != 0 {
			h.Uid = i.uid
		}
		for k, v := range i.xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[paxXattr+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b.Bytes())
}

// system is a small tree with one of everything.
func system() []item {
	return []item{
		{name: "./", kind: tar.TypeDir, mode: 0o755},
		{name: "./bin", kind: tar.TypeSymlink, link: "usr/bin"},
		{name: "./usr/", kind: tar.TypeDir, mode: 0o755},
		{name: "./usr/bin/", kind: tar.TypeDir, mode: 0o755},
		{name: "./usr/bin/su", mode: 0o4755, body: strings.Repeat("su", 5000)},
		{name: "./usr/bin/again", kind: tar.TypeLink, link: "./usr/bin/su"},
		{name: "./etc/", kind: tar.TypeDir, mode: 0o750},
		{name: "./etc/empty", mode: 0o600},
		{name: "./etc/äöü name", body: "text"},
		{name: "./etc/abs", kind: tar.TypeSymlink, link: "/etc/empty"},
		{name: "./tmp/", kind: tar.TypeDir, mode: 0o1777},
		{name: "./var/", kind: tar.TypeDir, mode: 0o755},
		{name: "./var/pipe", kind: tar.TypeFifo, mode: 0o640},
		{name: "./dev/", kind: tar.TypeDir, mode: 0o755},
		{name: "./dev/null", kind: tar.TypeChar, mode: 0o666},
		{name: "./user", xattrs: map[string]string{"user.note": "kept", "trusted.overlay.opaque": "y"}},
	}
}

func store(t testing.TB, f Format) *Store {
	t.Helper()
	s, err := OpenWith(filepath.Join(t.TempDir(), "images"), slog.New(slog.DiscardHandler), Options{Format: f})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t testing.TB, s *Store, items ...item) Info {
	t.Helper()
	info, err := s.WriteTar(t.Context(), archive(t, items...))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// listing reads an image back without using the manifest.
func listing(t *testing.T, s *Store, info Info) map[string]entry {
	t.Helper()
	var fsys fs.FS = os.DirFS(s.dirPath(info.Digest))
	xattrs := hostXattrs(s.dirPath(info.Digest))
	if info.Format == EROFS {
		f, err := os.Open(s.erofsPath(info.Digest))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		if fsys, err = erofs.Open(f); err != nil {
			t.Fatal(err)
		}
		xattrs = nil
	}
	found := map[string]entry{}
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		e, err := describe(fsys, path, d, xattrs)
		if err != nil {
			return err
		}
		if e.mode.IsRegular() {
			b, err := fs.ReadFile(fsys, path)
			if err != nil {
				return err
			}
			e.link = string(b) // the content, for the comparison
		}
		found[path] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestWriteTarKeepsEverything(t *testing.T) {
	for _, f := range formats {
		t.Run(string(f), func(t *testing.T) {
			s := store(t, f)
			info := write(t, s, system()...)
			want := map[string]string{
				".": "drwxr-xr-x", "bin": "Lrwxrwxrwx", "usr": "drwxr-xr-x", "usr/bin": "drwxr-xr-x",
				"usr/bin/su": "urwxr-xr-x", "usr/bin/again": "urwxr-xr-x",
				"etc": "drwxr-x---", "etc/empty": "-rw-------", "etc/äöü name": "-rw-r--r--",
				"etc/abs": "Lrwxrwxrwx", "tmp": "dtrwxrwxrwx", "var": "drwxr-xr-x",
				"var/pipe": "prw-r-----", "dev": "drwxr-xr-x", "user": "-rw-r--r--",
			}
			found := listing(t, s, info)
			got := map[string]string{}
			for path, e := range found {
				got[path] = e.mode.String()
				if !e.mtime.Equal(stamp) {
					t.Errorf("%s: time %v, want %v", path, e.mtime, stamp)
				}
				if int(e.uid) != os.Getuid() || int(e.gid) != os.Getgid() {
					t.Errorf("%s: owner %d:%d", path, e.uid, e.gid)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("modes (-want +got):\n%s", d)
			}
			if found["bin"].link != "usr/bin" || found["etc/abs"].link != "/etc/empty" {
				t.Errorf("links lead to %q and %q", found["bin"].link, found["etc/abs"].link)
			}
			if body := strings.Repeat("su", 5000); found["usr/bin/su"].link != body || found["usr/bin/again"].link != body {
				t.Error("contents differ")
			}
			if d := cmp.Diff(map[string]string{"user.note": "kept"}, found["user"].xattrs); d != "" {
				t.Errorf("attributes (-want +got):\n%s", d)
			}
			if info.Entries != len(want) {
				t.Errorf("%d entries, want %d", info.Entries, len(want))
			}
		})
	}
}

func TestMissingParentsAreMade(t *testing.T) {
	s := store(t, EROFS)
	found := listing(t, s, write(t, s, item{name: "a/b/c", body: "x"}))
	for _, path := range []string{".", "a", "a/b"} {
		if e := found[path]; e.mode != fs.ModeDir|0o755 || e.uid != 0 || e.mtime.Unix() != 0 {
			t.Errorf("%s: %+v", path, e)
		}
	}
}

func TestDigestNamesContent(t *testing.T) {
	var all []string
	for _, f := range formats {
		s := store(t, f)
		all = append(all, write(t, s, system()...).Digest)
		// The same tree in another order, its parents named later.
		items := system()
		moved := slices.Concat(items[9:], items[:9])
		all = append(all, write(t, s, moved...).Digest)
		if n, err := s.List(); err != nil || len(n) != 1 {
			t.Errorf("%s: store holds %v (%v), want one image", f, n, err)
		}
	}
	if u := slices.Compact(slices.Clone(all)); len(u) != 1 {
		t.Errorf("one tree has several digests: %v", all)
	}
	s := store(t, EROFS)
	for _, change := range []func(*item){
		func(i *item) { i.body += "x" },
		func(i *item) { i.mode ^= 0o001 },
		func(i *item) { i.name += "x" },
		func(i *item) { i.uid = 77 },
		func(i *item) { i.xattrs = map[string]string{"security.capability": "\x01"} },
	} {
		items := system()
		change(&items[8])
		if d := write(t, s, items...).Digest; d == all[0] {
			t.Errorf("a changed tree has the same digest")
		}
	}
}

func TestEqualTreesAreEqualFiles(t *testing.T) {
	a, b := store(t, EROFS), store(t, EROFS)
	ia, ib := write(t, a, system()...), write(t, b, system()...)
	fa, err := os.ReadFile(a.erofsPath(ia.Digest))
	if err != nil {
		t.Fatal(err)
	}
	fb, err := os.ReadFile(b.erofsPath(ib.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(fa, fb) {
		t.Error("two images of one tree differ")
	}
}

func TestVerify(t *testing.T) {
	for _, f := range formats {
		t.Run(string(f), func(t *testing.T) {
			s := store(t, f)
			info := write(t, s, system()...)
			got, err := s.Verify(t.Context(), info.Digest)
			if err != nil || got.Entries != info.Entries {
				t.Fatalf("Verify = %+v, %v; want %d entries", got, err, info.Entries)
			}
			spoil(t, s, info)
			if _, err := s.Verify(t.Context(), info.Digest); !errs.Is(err, errs.Invalid) {
				t.Errorf("Verify of a spoiled image: %v, want %v", err, errs.Invalid)
			}
		})
	}
}

// spoil changes one byte of a file's content.
func spoil(t *testing.T, s *Store, info Info) {
	t.Helper()
	path := filepath.Join(s.dirPath(info.Digest), "etc/äöü name")
	if info.Format == EROFS {
		path = s.erofsPath(info.Digest)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, []byte("text"))
	b[i] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedImagesAreRefused(t *testing.T) {
	s := store(t, EROFS)
	info := write(t, s, system()...)
	path := s.erofsPath(info.Digest)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty": {}, "cut off": whole[:len(whole)-4096], "header gone": make([]byte, len(whole)),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Mount(t.Context(), info.Digest); !errs.Is(err, errs.Invalid) {
				t.Errorf("Mount: %v, want %v", err, errs.Invalid)
			}
			if s.Has(info.Digest) {
				t.Error("Has: true")
			}
		})
	}
	// A damaged image is replaced when it is written again.
	if again := write(t, s, system()...); again.Digest != info.Digest || !s.Has(info.Digest) {
		t.Errorf("written again: %+v", again)
	}
}

func TestUnknownImages(t *testing.T) {
	s := store(t, EROFS)
	if _, err := s.Mount(t.Context(), strings.Repeat("a", 64)); !errs.Is(err, errs.NotFound) {
		t.Errorf("Mount of a missing image: %v, want %v", err, errs.NotFound)
	}
	for _, bad := range []string{"", "../../etc", strings.Repeat("A", 64)} {
		if _, err := s.Mount(t.Context(), bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("Mount(%q): %v, want %v", bad, err, errs.Invalid)
		}
		if err := s.Remove(t.Context(), bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("Remove(%q): %v, want %v", bad, err, errs.Invalid)
		}
	}
}

func TestImportConverts(t *testing.T) {
	for _, from := range formats {
		for _, to := range formats {
			t.Run(string(from)+" to "+string(to), func(t *testing.T) {
				a, b := store(t, from), store(t, to)
				items := system()
				info := write(t, a, items...)
				got, err := b.Import(t.Context(), a.dir, info.Digest)
				if err != nil || got.Digest != info.Digest || got.Format != to {
					t.Fatalf("Import = %+v, %v", got, err)
				}
				if _, err := b.Verify(t.Context(), info.Digest); err != nil {
					t.Errorf("Verify: %v", err)
				}
				if err := b.Remove(t.Context(), info.Digest); err != nil || b.Has(info.Digest) {
					t.Errorf("Remove: %v", err)
				}
				spoil(t, a, info)
				if _, err := b.Import(t.Context(), a.dir, info.Digest); from != to && !errs.Is(err, errs.Invalid) {
					t.Errorf("Import of a spoiled image: %v, want %v", err, errs.Invalid)
				}
			})
		}
	}
}

func TestExport(t *testing.T) {
	s := store(t, Directory)
	info := write(t, s, system()...)
	dir := filepath.Join(t.TempDir(), "cache")
	if err := s.Export(t.Context(), info.Digest, dir); err != nil {
		t.Fatal(err)
	}
	other := store(t, Directory)
	if _, err := other.Import(t.Context(), dir, info.Digest); err != nil {
		t.Errorf("Import: %v", err)
	}
}
