package image

import (
	"archive/tar"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// erofsStore is a store whose images the kernel can mount, or the test skips.
func erofsStore(t *testing.T) *Store {
	t.Helper()
	testreq.Root(t)
	s := store(t, EROFS)
	if err := ProbeEROFS(s.dir); err != nil {
		testreq.Missing(t, "file-backed EROFS mounts (Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE): "+err.Error())
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func mounts(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), " "+dir+" ")
}

func TestMountOnce(t *testing.T) {
	s := erofsStore(t)
	info := write(t, s, system()...)
	dir, err := s.Mount(t.Context(), info.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Mount(t.Context(), info.Digest); err != nil || again != dir {
		t.Errorf("mounted again: %s, %v", again, err)
	}
	// A store of another process finds the mount.
	other, err := OpenWith(s.dir, slog.New(slog.DiscardHandler), Options{Format: EROFS})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := other.Mount(t.Context(), info.Digest); err != nil || again != dir {
		t.Errorf("mounted by another: %s, %v", again, err)
	}
	if n := mounts(t, dir); n != 1 {
		t.Errorf("%d mounts, want 1", n)
	}
	for range 2 {
		if err := s.Unmount(t.Context(), info.Digest); err != nil {
			t.Error(err)
		}
	}
	if n := mounts(t, dir); n != 0 {
		t.Errorf("%d mounts after unmounting", n)
	}
	if err := s.Remove(t.Context(), info.Digest); err != nil {
		t.Error(err)
	}
	empty(t, s)
}

func TestMountShowsWhatTarHolds(t *testing.T) {
	s := erofsStore(t)
	items := append(system(),
		item{name: "./usr/bin/ping", mode: 0o755, body: "ping", xattrs: map[string]string{
			// VFS_CAP_REVISION_2, cap_net_raw permitted and effective
			"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00" + strings.Repeat("\x00", 12),
		}},
		item{name: "./home/", kind: tar.TypeDir, mode: 0o700, uid: 1000},
	)
	info := write(t, s, items...)
	dir, err := s.Mount(t.Context(), info.Digest)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel's view gives the digest, as the archive did.
	w := newTreeWriter(nowhere{}, DefaultLimits())
	if err := walkImage(t.Context(), dir, w); err != nil {
		t.Fatal(err)
	}
	if got, err := w.finish(t.Context()); err != nil || got.Digest != info.Digest {
		t.Errorf("mounted: %+v, %v; want %s", got, err, info.Digest)
	}
	fi, err := os.Stat(filepath.Join(dir, "home"))
	if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("home: %v, %v", fi, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err == nil {
		t.Error("the image can be written to")
	}
}

func TestDirectoryFormatUnpacksOwners(t *testing.T) {
	testreq.Root(t)
	s := store(t, Directory)
	info := write(t, s, append(system(), item{name: "./theirs", uid: 1000, mode: 0o4711, body: "x"})...)
	dir, err := s.Mount(t.Context(), info.Digest)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "theirs"))
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != 1000 || fi.Mode() != os.ModeSetuid|0o711 {
		t.Errorf("owner %d, mode %v; want 1000 and setuid", st.Uid, fi.Mode())
	}
	su, err := os.Stat(filepath.Join(dir, "usr/bin/su"))
	if err != nil || su.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("hard link was not kept: %v", err)
	}
}

// The store of a kernel without file-backed EROFS takes an image that came as
// an EROFS file, and keeps it as a directory.
func TestMountConvertsWhereItMust(t *testing.T) {
	s := store(t, EROFS)
	info := write(t, s, system()...)
	s.format = Directory
	dir, err := s.Mount(t.Context(), info.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "etc/äöü name")); err != nil || string(b) != "text" {
		t.Errorf("content: %q, %v", b, err)
	}
}

// BenchmarkWriteTar measures archive to image on a real system, given as
// SANDLOT_BENCH_TAR, beside what tar needs to unpack it.
func BenchmarkWriteTar(b *testing.B) {
	path := os.Getenv("SANDLOT_BENCH_TAR")
	if path == "" {
		b.Skip("SANDLOT_BENCH_TAR names no archive")
	}
	for _, f := range formats {
		b.Run(string(f), func(b *testing.B) {
			for b.Loop() {
				s := store(b, f)
				r, err := os.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.WriteTar(b.Context(), r); err != nil {
					b.Fatal(err)
				}
				_ = r.Close()
			}
		})
	}
	b.Run("floor-tar-x", func(b *testing.B) {
		for b.Loop() {
			cmd := exec.CommandContext(b.Context(), "tar", "-xf", path, "--exclude=./dev/*", "-C", b.TempDir())
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	})
}

func BenchmarkMount(b *testing.B) {
	testreq.Root(b)
	s := store(b, EROFS)
	info := write(b, s, system()...)
	for b.Loop() {
		if _, err := s.Mount(b.Context(), info.Digest); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Unmount(b.Context(), info.Digest); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
