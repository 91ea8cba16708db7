package template

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/debian"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/image"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// archive is a file system of one file.
func archive(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "./hello", Mode: 0o644, Size: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// cache makes a cache that holds a base image, so that nothing is built.
func cache(t *testing.T) func(*Options) {
	t.Helper()
	r := registry(t, t.TempDir(), func(o *Options) { o.Cache = filepath.Join(o.DataDir, "cache") })
	info, err := r.opts.Images.WriteTar(t.Context(), bytes.NewReader(archive(t)))
	if err != nil {
		t.Fatal(err)
	}
	r.keep(t.Context(), info)
	return func(o *Options) { o.Cache = r.opts.Cache }
}

func TestEnsureBaseFromCache(t *testing.T) {
	dir, cached := t.TempDir(), cache(t)
	r := registry(t, dir, cached)
	var reports []Progress
	tpl, err := r.EnsureBase(t.Context(), func(p Progress) { reports = append(reports, p) })
	if err != nil {
		t.Fatal(err)
	}
	if tpl.Aliases[0] != "base" || tpl.User != "user" || tpl.Workdir != "/home/user" || tpl.SizeBytes == 0 ||
		tpl.Env["LANG"] != "C.UTF-8" || tpl.CreatedAt.IsZero() || len(tpl.BuildID) != 36 {
		t.Errorf("template: %+v", tpl)
	}
	if last := reports[len(reports)-1]; !last.Done || last.Percent != 100 {
		t.Errorf("last report: %+v", last)
	}
	if _, err := r.opts.Images.Verify(t.Context(), tpl.Image); err != nil {
		t.Error(err)
	}
	// It is there now: the cache is not asked, nothing is reported, nothing changes.
	again, err := registry(t, dir).EnsureBase(t.Context(), func(Progress) { t.Error("a report") })
	if err != nil || again.BuildID != tpl.BuildID {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func TestEnsureBaseKeepsIDAndLimitsWhenTheImageIsLost(t *testing.T) {
	r := registry(t, t.TempDir(), cache(t))
	tpl, err := r.EnsureBase(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	limits := tpl.Limits
	limits.CPUs = 7
	if _, err := r.SetLimits(t.Context(), "base", limits); err != nil {
		t.Fatal(err)
	}
	if err := r.opts.Images.Remove(t.Context(), tpl.Image); err != nil {
		t.Fatal(err)
	}
	again, err := r.EnsureBase(t.Context(), nil)
	if err != nil || again.ID != tpl.ID || again.Limits.CPUs != 7 || again.BuildID == tpl.BuildID {
		t.Errorf("again: %+v, %v", again, err)
	}
	if !r.opts.Images.Has(again.Image) {
		t.Error("the image is still missing")
	}
}

func TestConcurrentEnsureBaseBuildsOnce(t *testing.T) {
	dir, cached := t.TempDir(), cache(t)
	var wg sync.WaitGroup
	builds := make(chan string, 4)
	for range cap(builds) {
		r := registry(t, dir, cached)
		wg.Go(func() {
			tpl, err := r.EnsureBase(t.Context(), nil)
			if err != nil {
				t.Error(err)
			}
			builds <- tpl.BuildID
		})
	}
	wg.Wait()
	first := <-builds
	for range cap(builds) - 1 {
		if b := <-builds; b != first {
			t.Errorf("two builds: %s and %s", first, b)
		}
	}
}

func TestWaitingForAnotherBuildCanBeCancelled(t *testing.T) {
	r := registry(t, t.TempDir())
	lock, err := os.Create(filepath.Join(r.dir, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = r.EnsureBase(ctx, func(p Progress) {
		if strings.HasPrefix(p.Stage, "waiting") {
			cancel(enough)
		}
	})
	if !errors.Is(err, enough) {
		t.Errorf("EnsureBase: %v, want %v", err, enough)
	}
}

func TestDamagedCacheCountsAsEmpty(t *testing.T) {
	for name, note := range map[string]string{
		"no note": "", "half a note": `{"ima`, "image gone": `{"image":"` + strings.Repeat("a", 64) + `"}`, "no name": `{}`,
	} {
		r := registry(t, t.TempDir(), func(o *Options) { o.Cache = filepath.Join(o.DataDir, "cache") })
		if err := os.Mkdir(r.opts.Cache, 0o700); err != nil {
			t.Fatal(err)
		}
		if note != "" {
			if err := os.WriteFile(r.cacheNote(), []byte(note), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m := startMeter(nil)
		if info, err := r.cached(t.Context(), m); err != nil || info.Digest != "" {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
		m.stop()
	}
}

// builder puts a program on PATH that stands for mmdebstrap.
func builder(t *testing.T, script string) {
	t.Helper()
	testreq.Root(t)
	testreq.File(t, debian.Keyring, "install debian-archive-keyring")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mmdebstrap"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// nothingLeft checks that a data directory has no temporary files and no base.
func nothingLeft(t *testing.T, r *Registry) {
	t.Helper()
	for _, pattern := range []string{"tmp/*", "images/*", "images/.*", "templates/*.json", "templates/.tmp*"} {
		if left, _ := filepath.Glob(filepath.Join(r.opts.DataDir, pattern)); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestBuild(t *testing.T) {
	tarFile := filepath.Join(t.TempDir(), "fs.tar")
	if err := os.WriteFile(tarFile, archive(t), 0o600); err != nil {
		t.Fatal(err)
	}
	builder(t, `test -x "$TMPDIR/customize" || exit 1; test -n "$SANDLOT_NPM" || exit 1
echo "I: downloading packages" >&2; cat `+tarFile)
	r := registry(t, t.TempDir(), func(o *Options) { o.Cache = filepath.Join(o.DataDir, "cache") })
	tpl, err := r.EnsureBase(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.tmp, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// The cache is filled: another data directory needs no builder.
	t.Setenv("PATH", t.TempDir())
	other := registry(t, t.TempDir(), func(o *Options) { o.Cache = r.opts.Cache })
	if got, err := other.EnsureBase(t.Context(), nil); err != nil || got.Image != tpl.Image {
		t.Errorf("from the cache: %+v, %v", got, err)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		script string
		want   errs.Kind
		text   string
	}{
		"at once":        {`echo "E: no mirror" >&2; exit 1`, errs.Unavailable, "E: no mirror"},
		"in the archive": {`head -c 1000 /dev/zero; printf x; echo "E: broke off" >&2; exit 1`, errs.Unavailable, "E: broke off"},
		"after it":       {`head -c 1024 /dev/zero; echo "E: too late" >&2; exit 1`, errs.Unavailable, "E: too late"},
		"not an archive": {`yes | head -c 4096`, errs.Internal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			builder(t, tt.script)
			r := registry(t, t.TempDir())
			_, err := r.EnsureBase(t.Context(), nil)
			if errs.KindOf(err) != tt.want || !strings.Contains(fmt.Sprint(err), tt.text) {
				t.Errorf("EnsureBase: %v; want %v with %q", err, tt.want, tt.text)
			}
			nothingLeft(t, r)
		})
	}
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	builder(t, `echo "I: downloading packages" >&2; mkdir "$TMPDIR/half"; head -c 512 /dev/zero; sleep 60`)
	r := registry(t, t.TempDir())
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := r.EnsureBase(ctx, func(p Progress) {
		if p.Stage == "downloading packages" {
			cancel(enough)
		}
	})
	if !errors.Is(err, enough) {
		t.Errorf("EnsureBase: %v, want %v", err, enough)
	}
	nothingLeft(t, r)
}

func TestBadMirrorIsRefusedBeforeBuilding(t *testing.T) {
	r := registry(t, t.TempDir(), func(o *Options) { o.Mirror = "no mirror at all" })
	if _, err := r.EnsureBase(t.Context(), nil); !errs.Is(err, errs.Invalid) {
		t.Errorf("EnsureBase: %v, want %v", err, errs.Invalid)
	}
	nothingLeft(t, r)
}

func TestRequirements(t *testing.T) {
	for _, r := range Requirements() {
		if r.Program == "" || r.Package == "" || r.Why == "" {
			t.Errorf("%+v says too little", r)
		}
	}
}

// The hook runs on hosts with any shell.
func TestCustomizeIsPOSIX(t *testing.T) {
	path := filepath.Join(t.TempDir(), "customize")
	if err := os.WriteFile(path, []byte(customize), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-n", path).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestRealBuild builds the base template from the mirror and looks at what a
// user of it needs. It takes about a minute.
func TestRealBuild(t *testing.T) {
	if os.Getenv("SANDLOT_TEST_REQUIRE") != "all" {
		t.Skip("builds from the network only with SANDLOT_TEST_REQUIRE=all")
	}
	testreq.Root(t)
	testreq.Command(t, "mmdebstrap", "mmdebstrap")
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	// As a directory, in which programs can be run without any mount.
	images, err := image.OpenWith(filepath.Join(dir, "images"), log, image.Options{Format: image.Directory})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(Options{DataDir: dir, Images: images, Log: log, Mirror: os.Getenv("SANDLOT_DEBIAN_MIRROR")})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	tpl, err := r.EnsureBase(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("built in %v, %d MB", time.Since(start).Round(time.Second), tpl.SizeBytes/1_000_000)
	root, err := images.Mount(t.Context(), tpl.Image)
	if err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"id -u user": "1000", "stat -c %a:%U /home/user": "700:user", "stat -c %a /etc/sudoers.d/user": "440",
		"su user -c 'sudo -n id -u'": "0", "stat -c %a /tmp": "1777", "LANG=C.UTF-8 locale charmap": "UTF-8",
		"python -c 'print(1)'": "1", "node -p 1+1": "2", "npm --version": strings.SplitN(npm, "+", 2)[0],
		"cat /etc/resolv.conf": "nameserver 169.254.0.22", "cat /etc/machine-id": "", "ls -A /dev": "",
		"ls -A /var/lib/apt/lists | tr '\\n' ' '": "lock partial ", "cat /etc/hostname": "sandbox",
		"test -d /usr/share/man/man1 && echo yes":                  "yes",
		"bash -c 'type -P git curl ssh ss pgrep pip less' | wc -l": "7",
		"grep -c trixie-security /etc/apt/sources.list":            "1",
	} {
		out, err := exec.CommandContext(t.Context(), "chroot", root, "/bin/sh", "-c", command).Output()
		if got := strings.TrimRight(string(out), "\n"); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", command, got, err, want)
		}
	}
}
