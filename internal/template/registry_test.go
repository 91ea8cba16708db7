package template

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/image"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// registry opens one in dir, whose images are EROFS files.
func registry(t *testing.T, dir string, change ...func(*Options)) *Registry {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	images, err := image.OpenWith(filepath.Join(dir, "images"), log, image.Options{Format: image.EROFS})
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{DataDir: dir, Images: images, Log: log}
	for _, c := range change {
		c(&opts)
	}
	r, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sample(alias string) sandbox.Template {
	t := newBase()
	t.Aliases = []string{alias}
	t.Image = strings.Repeat("ab", 32)
	t.Limits = sandbox.DefaultLimits()
	t.CreatedAt = time.Unix(1_700_000_000, 0).UTC()
	return t
}

func put(t *testing.T, r *Registry, all ...sandbox.Template) {
	t.Helper()
	for _, tpl := range all {
		if err := r.Put(t.Context(), tpl); err != nil {
			t.Fatal(err)
		}
	}
}

func TestResolve(t *testing.T) {
	r := registry(t, t.TempDir())
	base, other := sample("base"), sample("other")
	other.Aliases = append(other.Aliases, "second")
	put(t, r, base, other)
	for ref, want := range map[string]string{
		"base": base.ID, base.ID: base.ID, "base:latest": base.ID, "base:default": base.ID,
		"team/base": base.ID, "team/base:latest": base.ID, "team/" + other.ID: other.ID, "second": other.ID,
	} {
		got, err := r.Resolve(t.Context(), ref)
		if err != nil || got.ID != want {
			t.Errorf("Resolve(%q) = %s, %v; want %s", ref, got.ID, err, want)
		}
	}
	for _, ref := range []string{"", "nothing", "base:v2", "base:", "a/b/base", "/base", "../templates/base", "team/"} {
		_, err := r.Resolve(t.Context(), ref)
		if !errs.Is(err, errs.NotFound) {
			t.Errorf("Resolve(%q): %v, want %v", ref, err, errs.NotFound)
		}
	}
	_, err := r.Resolve(t.Context(), "nothing")
	if m := errs.PublicMessage(err); !strings.Contains(m, "other = second") || !strings.Contains(m, "base") {
		t.Errorf("the message does not say what there is: %s", m)
	}
	_, err = registry(t, t.TempDir()).Resolve(t.Context(), "base")
	if m := errs.PublicMessage(err); !strings.Contains(m, "sandlot setup") {
		t.Errorf("the message does not say what to do: %s", m)
	}
}

func TestPutSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	a, b := sample("a"), sample("b")
	b.CreatedAt = b.CreatedAt.Add(-time.Hour)
	put(t, registry(t, dir), a, b)
	got, err := registry(t, dir).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]sandbox.Template{b, a}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestChangesOfAnotherProcessAreSeen(t *testing.T) {
	dir := t.TempDir()
	here, there := registry(t, dir), registry(t, dir)
	for _, alias := range []string{"a", "b", "c"} {
		if _, err := here.Resolve(t.Context(), alias); err == nil {
			t.Fatalf("%s exists already", alias)
		}
		put(t, there, sample(alias))
		if _, err := here.Resolve(t.Context(), alias); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenSweepsAndDamagedFilesAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	r := registry(t, dir)
	put(t, r, sample("good"))
	old := time.Now().Add(-time.Hour)
	for name, text := range map[string]string{
		atomicfile.Prefix + "old": `{"id":`, "cut.json": `{"id": "cu`, "renamed.json": `{"id":"x","image":"y"}`, "noimage.json": `{"id":"noimage"}`,
	} {
		path := filepath.Join(r.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	fresh := filepath.Join(r.dir, atomicfile.Prefix+"fresh") // of a writer that lives
	if err := os.WriteFile(fresh, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = registry(t, dir)
	if all, err := r.List(t.Context()); err != nil || len(all) != 1 || all[0].Aliases[0] != "good" {
		t.Errorf("List = %v, %v; want the good one", all, err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, atomicfile.Prefix+"old")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an old temporary file stays: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("a young temporary file was removed: %v", err)
	}
}

// Readers see a template as it was or as it will be, never a part of it.
func TestPutIsAtomic(t *testing.T) {
	dir := t.TempDir()
	writer, reader := registry(t, dir), registry(t, dir)
	tpl := sample("base")
	put(t, writer, tpl)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := int64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			tpl.Limits.PIDs, tpl.SizeBytes = sandbox.MinPIDs+n, sandbox.MinPIDs+n
			put(t, writer, tpl)
		}
	})
	for range 300 {
		got, err := reader.Resolve(t.Context(), "base")
		if err != nil {
			t.Errorf("Resolve while writing: %v", err)
			break
		}
		if got.SizeBytes != 0 && got.Limits.PIDs != got.SizeBytes {
			t.Errorf("half a template: %+v", got)
			break
		}
	}
	close(stop)
	wg.Wait()
}

func TestFailedPutKeepsTheOld(t *testing.T) {
	r := registry(t, t.TempDir())
	good := sample("base")
	put(t, r, good)
	for name, change := range map[string]func(*sandbox.Template){
		"no image":   func(t *sandbox.Template) { t.Image = "" },
		"bad id":     func(t *sandbox.Template) { t.ID = "../x" },
		"bad limits": func(t *sandbox.Template) { t.Limits.MemoryBytes = 1 },
	} {
		bad := good
		change(&bad)
		if err := r.Put(t.Context(), bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want %v", name, err, errs.Invalid)
		}
	}
	good.Limits = sandbox.DefaultLimits() // filled in where a template names none
	if got, err := r.Resolve(t.Context(), "base"); err != nil || cmp.Diff(good, got) != "" {
		t.Errorf("Resolve = %+v, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, atomicfile.Prefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSetLimits(t *testing.T) {
	r := registry(t, t.TempDir())
	put(t, r, sample("base"))
	want := sandbox.Limits{CPUs: 4, MemoryBytes: 512 << 20}.OrDefault()
	got, err := r.SetLimits(t.Context(), "base", sandbox.Limits{CPUs: 4, MemoryBytes: 512 << 20})
	if err != nil || got.Limits != want {
		t.Errorf("SetLimits = %+v, %v; want %+v", got.Limits, err, want)
	}
	if again, err := r.Resolve(t.Context(), "base"); err != nil || again.Limits != want {
		t.Errorf("Resolve = %+v, %v", again.Limits, err)
	}
	for _, bad := range []sandbox.Limits{
		{CPUs: -1}, {CPUs: 5000}, {MemoryBytes: -1}, {MemoryBytes: 1 << 20}, {SwapBytes: -1}, {PIDs: -1}, {DiskBytes: -1},
	} {
		if _, err := r.SetLimits(t.Context(), "base", bad); !errs.Is(err, errs.Invalid) {
			t.Errorf("SetLimits(%+v): %v, want %v", bad, err, errs.Invalid)
		}
	}
	if _, err := r.SetLimits(t.Context(), "nothing", want); !errs.Is(err, errs.NotFound) {
		t.Errorf("SetLimits of nothing: %v, want %v", err, errs.NotFound)
	}
}

// The file is an interface: people and other programs read it.
func TestFileFormat(t *testing.T) {
	r := registry(t, t.TempDir())
	tpl := sample("base")
	put(t, r, tpl)
	b, err := os.ReadFile(filepath.Join(r.dir, tpl.ID+suffix))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"id", "aliases", "image", "limits", "user", "workdir", "size_bytes", "created_at"} {
		if _, ok := got[key]; !ok {
			t.Errorf("%q is missing in %s", key, b)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	dir := b.TempDir()
	images, err := image.OpenWith(filepath.Join(dir, "images"), slog.New(slog.DiscardHandler), image.Options{Format: image.EROFS})
	if err != nil {
		b.Fatal(err)
	}
	r, err := Open(Options{DataDir: dir, Images: images, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	if err := r.Put(b.Context(), sample("base")); err != nil {
		b.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // past what is re-read to be safe
	for b.Loop() {
		if _, err := r.Resolve(b.Context(), "base"); err != nil {
			b.Fatal(err)
		}
	}
}
