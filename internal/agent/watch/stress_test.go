package watch_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/agent/watch"
)

// view is what a reader of events knows of a tree.
type view struct {
	names map[string]bool
	// moved is what was below a name when it was renamed.
	moved map[string][]string
	// log is what came, in words.
	log []string
	// twice counts names created though they were there.
	twice int
}

func newView(t testing.TB, dir string) *view {
	return &view{names: walk(t, dir), moved: map[string][]string{}}
}

func (v *view) apply(events []watch.Event) {
	for _, e := range events {
		v.log = append(v.log, fmt.Sprintf("%v %s<%s", e.Op, e.Name, e.From))
		switch e.Op {
		case watch.Create:
			if v.names[e.Name] {
				v.twice++
			}
			v.names[e.Name] = true
			if e.From != "" {
				for _, below := range v.moved[e.From] {
					v.names[e.Name+below] = true
				}
			}
		case watch.Rename, watch.Remove:
			v.moved[e.Name] = nil
			maps.DeleteFunc(v.names, func(name string, _ bool) bool {
				below, is := strings.CutPrefix(name, e.Name)
				if is && strings.HasPrefix(below, "/") {
					v.moved[e.Name] = append(v.moved[e.Name], below)
				}
				return is && (below == "" || below[0] == '/')
			})
		case watch.Write, watch.Chmod: // of no name that was not there
		}
	}
}

// walk returns what is below dir.
func walk(t testing.TB, dir string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			names[path[len(dir)+1:]] = true
		}
		return err
	}))
	return names
}

func compare(t *testing.T, v *view, dir string) {
	t.Helper()
	want, got := slices.Sorted(maps.Keys(walk(t, dir))), slices.Sorted(maps.Keys(v.names))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the events tell another tree than there is (-is +told):\n%.2000s", d)
	}
}

// mutator changes a tree at random, without pause.
type mutator struct {
	r        *rand.Rand
	dir, out string
}

// pick returns an existing directory of the tree, relative and possibly "".
func (m *mutator) pick() string {
	at := ""
	for m.r.IntN(3) > 0 {
		var dirs []string
		entries, _ := os.ReadDir(filepath.Join(m.dir, at))
		for _, e := range entries {
			if e.IsDir() {
				dirs = append(dirs, e.Name())
			}
		}
		if len(dirs) == 0 {
			break
		}
		at = filepath.Join(at, dirs[m.r.IntN(len(dirs))])
	}
	return at
}

func (m *mutator) name() string { return string(rune('a' + m.r.IntN(5))) }

// step does one thing. What cannot be done, such as to rename a directory into
// itself, is left undone.
func (m *mutator) step() {
	in := filepath.Join(m.dir, m.pick())
	path := filepath.Join(in, m.name())
	other := filepath.Join(m.dir, m.pick(), m.name())
	outside := filepath.Join(m.out, m.name())
	switch m.r.IntN(12) {
	case 0, 1:
		_ = os.Mkdir(path, 0o755)
	case 2, 3:
		_ = os.MkdirAll(filepath.Join(path, m.name(), m.name(), m.name()), 0o755)
		_ = os.WriteFile(filepath.Join(path, "x"), nil, 0o644)
	case 4:
		_ = os.WriteFile(path, []byte("x"), 0o644)
	case 5:
		_ = os.Remove(path)
	case 6:
		_ = os.RemoveAll(path)
	case 7, 8, 9:
		_ = os.Rename(path, other)
	case 10:
		_ = os.RemoveAll(outside)
		_ = os.Rename(path, outside)
	case 11:
		_ = os.Rename(outside, path)
	}
}

// Whatever is done to a tree at whatever pace, who follows the events knows in
// the end what is there.
func TestRandomChanges(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 8
	}
	for round := range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			base := t.TempDir()
			m := &mutator{r: rand.New(rand.NewPCG(seed, 0)), dir: base + "/w", out: base + "/out"}
			must(t, errors.Join(os.Mkdir(m.dir, 0o755), os.Mkdir(m.out, 0o755)))
			for range 40 {
				m.step()
			}
			h := newHub(t)
			w := begin(t, h, m.dir, true)
			v := newView(t, m.dir)
			defer func() {
				if t.Failed() {
					t.Logf("the latest events: %q", v.log[max(0, len(v.log)-200):])
				}
			}()
			for range 1 + round%5 {
				for range 1 + m.r.IntN(200) {
					m.step()
				}
				mark, last := fence(t, m.dir)
				events, _, _ := collect(t, w, last)
				v.apply(events)
				must(t, os.Remove(mark))
			}
			_, last := fence(t, m.dir)
			events, _, _ := collect(t, w, func(e watch.Event) bool { return last(e) })
			v.apply(slices.DeleteFunc(events, func(e watch.Event) bool { return strings.HasPrefix(e.Name, "fence-") }))
			must(t, filepath.WalkDir(m.dir, func(path string, _ fs.DirEntry, err error) error {
				if strings.HasPrefix(filepath.Base(path), "fence-") {
					return os.RemoveAll(path)
				}
				return err
			}))
			compare(t, v, m.dir)
			watchesMatch(t, h, m.dir)
		})
		if t.Failed() {
			return
		}
	}
}

// watchesMatch checks that just the directories there are, are watched.
func watchesMatch(t *testing.T, h *watch.Hub, dir string) {
	t.Helper()
	// A second watcher waits for the end of what the first one has to do.
	w := begin(t, h, dir, true)
	defer w.Close()
	dirs := 0
	must(t, filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs++
		}
		return err
	}))
	// A directory that moved away while it was taken for another is let go with
	// the first event a second later.
	for deadline := time.Now().Add(5 * time.Second); kernelWatches(t) != dirs; time.Sleep(10 * time.Millisecond) {
		put(t, dir+"/sweep", "")
		if time.Now().After(deadline) {
			t.Fatalf("%d watches for %d directories", kernelWatches(t), dirs)
		}
	}
}

// Trees made at once by several programs are reported completely, and each name
// once.
func TestTreesMadeAtOnce(t *testing.T) {
	dir := t.TempDir()
	w := begin(t, newHub(t), dir, true)
	v := newView(t, dir)
	for range 20 {
		var wg sync.WaitGroup
		for k := range 4 {
			wg.Go(func() {
				for i := range 10 {
					deep := fmt.Sprintf("%s/%d-%d", dir, k, i)
					for j := range 6 {
						deep += fmt.Sprintf("/%d", j)
						_ = os.MkdirAll(deep, 0o755)
						_ = os.WriteFile(deep+"/f", []byte("x"), 0o644)
						_ = os.WriteFile(deep+"/g", nil, 0o644)
					}
				}
			})
		}
		wg.Wait()
		mark, last := fence(t, dir)
		events, _, _ := collect(t, w, last)
		v.apply(events)
		must(t, os.Remove(mark))
		_, last = fence(t, dir)
		collect(t, w, last)
		clean(t, dir)
		compare(t, v, dir)
		if v.twice > 0 {
			t.Fatalf("%d names were reported twice", v.twice)
		}
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			must(t, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
		mark, last = fence(t, dir)
		events, _, _ = collect(t, w, last)
		v.apply(events)
		must(t, os.Remove(mark))
		_, last = fence(t, dir)
		collect(t, w, last)
		clean(t, dir)
		if len(v.names) > 0 {
			t.Fatalf("removed, but told to be there: %v", slices.Sorted(maps.Keys(v.names)))
		}
	}
}

// clean removes the latest fence without telling the view.
func clean(t *testing.T, dir string) {
	t.Helper()
	all, err := filepath.Glob(dir + "/fence-*")
	must(t, err)
	for _, f := range all {
		must(t, os.Remove(f))
	}
}
