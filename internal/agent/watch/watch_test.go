package watch_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sandlot-dev/sandlot/internal/agent/watch"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// naming hides names as the agent does.
func naming(name string) watch.Naming {
	switch {
	case strings.HasPrefix(name, ".new-"):
		return watch.Writing
	case strings.HasPrefix(name, ".old-"):
		return watch.Rewriting
	case strings.HasPrefix(name, ".moving-"):
		return watch.Moving
	}
	return watch.Ordinary
}

func newHub(t testing.TB) *watch.Hub {
	t.Helper()
	h := watch.New(naming)
	t.Cleanup(h.Close)
	return h
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func begin(t testing.TB, h *watch.Hub, path string, recursive bool) *watch.Watcher {
	t.Helper()
	w, err := h.Watch(t.Context(), watch.Request{Path: path, Recursive: recursive})
	must(t, err)
	return w
}

// collect takes events until stop says so or the watcher ends.
func collect(t testing.TB, w *watch.Watcher, stop func(watch.Event) bool) (all []watch.Event, ended bool, err error) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		events, done, err := w.Take(100)
		if done {
			return all, true, err
		}
		for _, e := range events {
			if stop != nil && stop(e) {
				return all, false, nil
			}
			all = append(all, e)
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-w.Ready():
		case <-deadline:
			t.Fatalf("nothing more came after %d events, the last of them %q", len(all), tell(all[max(0, len(all)-20):]))
		}
	}
}

// fence makes a file last, so that its event comes last.
func fence(t testing.TB, dir string) (path string, is func(watch.Event) bool) {
	t.Helper()
	name := fmt.Sprintf("fence-%d", time.Now().UnixNano())
	must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	return filepath.Join(dir, name), func(e watch.Event) bool { return e.Name == name }
}

// tell formats events.
func tell(events []watch.Event) []string {
	lines := []string{}
	for _, e := range events {
		lines = append(lines, e.Op.String()+" "+e.Name)
	}
	return lines
}

func put(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

// Each case starts with the directory w holding the file f, the directory d with
// d/g, and the directory out beside w.
func TestEvents(t *testing.T) {
	for _, tt := range []struct {
		name      string
		recursive bool
		do        func(t *testing.T)
		want      string
	}{
		{"write to a new file", false, func(t *testing.T) { put(t, "w/n", "x") }, "CREATE n, WRITE n"},
		{"write to an old file", false, func(t *testing.T) {
			f, err := os.OpenFile("w/f", os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = f.WriteString("x")
			must(t, errors.Join(err, f.Close()))
		}, "WRITE f"},
		{"remove", false, func(t *testing.T) { must(t, os.Remove("w/f")) }, "REMOVE f"},
		{"chmod", false, func(t *testing.T) { must(t, os.Chmod("w/f", 0o600)) }, "CHMOD f"},
		{"chmod of a directory", true, func(t *testing.T) { must(t, os.Chmod("w/d", 0o700)) }, "CHMOD d"},
		{"chmod of the top", true, func(t *testing.T) { must(t, os.Chmod("w", 0o700)) }, "CHMOD ."},
		{"rename", false, func(t *testing.T) { must(t, os.Rename("w/f", "w/r")) }, "RENAME f, CREATE r"},
		{"move out", false, func(t *testing.T) { must(t, os.Rename("w/f", "out/f")) }, "RENAME f"},
		{"move in", false, func(t *testing.T) { put(t, "out/i", ""); must(t, os.Rename("out/i", "w/i")) }, "CREATE i"},
		{"link", false, func(t *testing.T) { must(t, os.Symlink("f", "w/l")) }, "CREATE l"},
		{"not recursive", false, func(t *testing.T) { put(t, "w/d/n", "x"); must(t, os.Mkdir("w/e", 0o755)); put(t, "w/e/n", "x") }, "CREATE e"},
		{"recursive", true, func(t *testing.T) { put(t, "w/d/n", "x") }, "CREATE d/n, WRITE d/n"},
		{"rename a directory", true, func(t *testing.T) {
			must(t, os.Rename("w/d", "w/e"))
			put(t, "w/e/n", "x")
		}, "RENAME d, CREATE e, CREATE e/n, WRITE e/n"},
		{"rename a directory often", true, func(t *testing.T) {
			must(t, os.Rename("w/d", "w/e"))
			must(t, os.Rename("w/e", "w/h"))
			put(t, "w/h/n", "x")
		}, "RENAME d, CREATE e, RENAME e, CREATE h, CREATE h/n, WRITE h/n"},
		{"move a directory out", true, func(t *testing.T) {
			must(t, os.Rename("w/d", "out/d"))
			put(t, "out/d/n", "x")
		}, "RENAME d"},
		{"move a directory in", true, func(t *testing.T) {
			must(t, os.MkdirAll("out/i/j", 0o755))
			put(t, "out/i/j/k", "x")
			must(t, os.Rename("out/i", "w/i"))
		}, "CREATE i, CREATE i/j, CREATE i/j/k, WRITE i/j/k"},
		{"remove a directory", true, func(t *testing.T) { must(t, os.RemoveAll("w/d")) }, "REMOVE d/g, REMOVE d"},
		{"a link is not followed", true, func(t *testing.T) {
			must(t, os.Symlink("../out", "w/l"))
			put(t, "out/n", "x")
		}, "CREATE l"},
		{"any bytes in a name", false, func(t *testing.T) { put(t, "w/\xff\n", "") }, "CREATE \xff\n"},
		{"temporary of a new file", false, func(t *testing.T) {
			put(t, "w/.new-1", "x")
			must(t, os.Chmod("w/.new-1", 0o600))
			must(t, os.Rename("w/.new-1", "w/n"))
		}, "CREATE n, WRITE n"},
		{"temporary of an old file", true, func(t *testing.T) {
			put(t, "w/d/.old-1", "x")
			must(t, os.Rename("w/d/.old-1", "w/d/g"))
		}, "WRITE d/g"},
		{"temporary given up", true, func(t *testing.T) { put(t, "w/d/.old-1", "x"); must(t, os.Remove("w/d/.old-1")) }, ""},
		{"temporary tree", true, func(t *testing.T) {
			must(t, os.Mkdir("w/.moving-1", 0o755))
			put(t, "w/.moving-1/f", "x")
			must(t, os.Rename("w/.moving-1", "w/m"))
		}, "CREATE m, CREATE m/f, WRITE m/f"},
		{"to a temporary's name", true, func(t *testing.T) { must(t, os.Rename("w/f", "w/.new-2")) }, "RENAME f"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			must(t, errors.Join(os.MkdirAll("w/d", 0o755), os.Mkdir("out", 0o755)))
			put(t, "w/f", "")
			put(t, "w/d/g", "")
			w := begin(t, newHub(t), absolute(t, "w"), tt.recursive)
			tt.do(t)
			_, last := fence(t, "w")
			events, _, _ := collect(t, w, last)
			// A file that is filled may tell of it in one event or two.
			got := strings.Join(slices.Compact(tell(events)), ", ")
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func absolute(t testing.TB, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	must(t, err)
	return path
}

func TestEndOfTheDirectory(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(dir string) error
		want string
	}{
		"removed": {os.RemoveAll, "REMOVE f, REMOVE ."},
		"renamed": {func(dir string) error { return os.Rename(dir, dir+"2") }, "RENAME ."},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "w")
			must(t, os.Mkdir(dir, 0o755))
			put(t, filepath.Join(dir, "f"), "")
			w := begin(t, newHub(t), dir, true)
			must(t, tt.do(dir))
			events, ended, err := collect(t, w, nil)
			if got := strings.Join(tell(events), ", "); got != tt.want || !ended || err != nil {
				t.Errorf("%s, %v, %v; want %s", got, ended, err, tt.want)
			}
		})
	}
}

// No event tells that a directory above was renamed; it shows when a path is needed.
func TestTreeMovedAway(t *testing.T) {
	above := filepath.Join(t.TempDir(), "above")
	must(t, os.MkdirAll(above+"/w/d", 0o755))
	w := begin(t, newHub(t), above+"/w", true)
	must(t, os.Rename(above, above+"2"))
	must(t, os.Mkdir(above+"2/w/d/e", 0o755))
	events, ended, err := collect(t, w, nil)
	if got := strings.Join(tell(events), ", "); got != "CREATE d/e, REMOVE ." || !ended || err != nil {
		t.Errorf("%s, %v, %v", got, ended, err)
	}
}

func TestRefusals(t *testing.T) {
	h := newHub(t)
	dir := t.TempDir()
	put(t, dir+"/f", "")
	_, err := h.Watch(t.Context(), watch.Request{Path: dir + "/none"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	_, err = h.Watch(t.Context(), watch.Request{Path: dir + "/f"})
	if !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("file: %v", err)
	}
	var all []*watch.Watcher
	for range watch.MaxWatchers {
		all = append(all, begin(t, h, dir, false))
	}
	if _, err = h.Watch(t.Context(), watch.Request{Path: dir}); !errs.Is(err, errs.Exhausted) {
		t.Errorf("one too many: %v", err)
	}
	all[0].Close()
	begin(t, h, dir, false)
	h.Close()
	if _, err = h.Watch(t.Context(), watch.Request{Path: dir}); !errs.Is(err, errs.Unavailable) {
		t.Errorf("closed: %v", err)
	}
	if _, done, err := all[1].Take(1); !done || !errs.Is(err, errs.Unavailable) {
		t.Errorf("watcher of a closed hub: %v, %v", done, err)
	}
}

// Watchers of the same directories share the kernel's watches, and each goes on
// when another ends.
func TestSharedWatches(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	must(t, os.Mkdir(dir+"/d", 0o755))
	whole, flat, inner := begin(t, h, dir, true), begin(t, h, dir, false), begin(t, h, dir+"/d", true)
	must(t, os.Symlink(dir, dir+"-link"))
	t.Cleanup(func() { _ = os.Remove(dir + "-link") })
	linked := begin(t, h, dir+"-link", false)
	if got := kernelWatches(t); got != 2 {
		t.Errorf("%d kernel watches for 2 directories", got)
	}
	put(t, dir+"/d/f", "")
	whole.Close()
	put(t, dir+"/d/g", "")
	_, last := fence(t, dir)
	for _, w := range []*watch.Watcher{flat, linked} {
		if events, _, _ := collect(t, w, last); len(events) != 0 {
			t.Errorf("not recursive, but %v", tell(events))
		}
	}
	must(t, os.Remove(dir+"/d/f"))
	events, _, _ := collect(t, inner, func(e watch.Event) bool { return e.Op == watch.Remove })
	if got := strings.Join(tell(events), ", "); got != "CREATE f, CREATE g" {
		t.Error(got)
	}
	for _, w := range []*watch.Watcher{flat, linked, inner} {
		w.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); kernelWatches(t) != -1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the instance is open, though nobody watches")
		}
	}
	again := begin(t, h, dir, true)
	put(t, dir+"/d/h", "")
	if events, _, _ := collect(t, again, func(e watch.Event) bool { return e.Name == "d/h" }); len(events) != 0 {
		t.Error(tell(events))
	}
}

// kernelWatches counts the watches of this process's inotify instance, -1 if it
// has none.
func kernelWatches(t *testing.T) int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	n := -1
	for _, l := range links {
		if target, _ := os.Readlink(l); target != "anon_inode:inotify" {
			continue
		}
		text, err := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(l))
		must(t, err)
		n = max(n, 0) + strings.Count(string(text), "inotify wd:")
	}
	return n
}

// A reader that does not read loses its watcher, not the others'.
func TestSlowReader(t *testing.T) {
	h, dir := newHub(t), t.TempDir()
	must(t, os.MkdirAll(dir+"/slow", 0o755))
	slow, other := begin(t, h, dir+"/slow", false), begin(t, h, dir, false)
	// Two names in turn: the kernel makes one event of equal ones in a row.
	names := []string{dir + "/slow/" + strings.Repeat("n", 250), dir + "/slow/" + strings.Repeat("m", 250)}
	put(t, names[0], "")
	put(t, names[1], "")
	for i := range 20_000 {
		must(t, os.Chmod(names[i%2], 0o600))
		if i%1000 == 0 { // so that it is the reader who is slow, not the Hub
			for len(slow.Ready()) == 0 {
				time.Sleep(time.Millisecond)
			}
			_, last := fence(t, dir)
			collect(t, other, last)
		}
	}
	events, ended, err := collect(t, slow, nil)
	if !ended || !errs.Is(err, errs.Exhausted) || !strings.Contains(errs.PublicMessage(err), "events were lost") {
		t.Errorf("after %d events: %v, %v", len(events), ended, err)
	}
	if len(events) < 10_000 {
		t.Errorf("only %d events were kept", len(events))
	}
	_, last := fence(t, dir)
	if _, ended, _ := collect(t, other, last); ended {
		t.Error("the other watcher ended, too")
	}
}
