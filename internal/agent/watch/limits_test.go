package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// tree makes n directories, 100 in each directory of the first level.
func tree(t testing.TB, n int) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n / 101 {
		first := filepath.Join(dir, fmt.Sprint(i))
		err := os.Mkdir(first, 0o755)
		for k := range 100 {
			err = errors.Join(err, os.Mkdir(filepath.Join(first, fmt.Sprint(k)), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func ordinary(string) Naming { return Ordinary }

// reading begins to watch a large tree and returns while it is being read.
func reading(t *testing.T, h *Hub, dir string) (cancel func(), result chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result = make(chan error, 1)
	go func() {
		_, err := h.Watch(ctx, Request{Path: dir, Recursive: true})
		result <- err
	}()
	for {
		h.mu.Lock()
		begun := h.in != nil && h.in.bound > 10
		h.mu.Unlock()
		if begun {
			return cancel, result
		}
		runtime.Gosched()
	}
}

// While a large tree is read, watchers and the hub can be closed, and whoever
// wanted it watched can give up.
func TestReadingHoldsNobody(t *testing.T) {
	dir, small := tree(t, 20_000), t.TempDir()
	for name, test := range map[string]struct {
		interrupt func(h *Hub, small *Watcher, cancel func())
		want      errs.Kind
	}{
		"hub": {func(h *Hub, _ *Watcher, _ func()) { h.Close() }, errs.Unavailable},
		"watcher": {func(_ *Hub, small *Watcher, cancel func()) {
			small.Close()
			cancel()
		}, errs.Timeout},
		"request": {func(_ *Hub, _ *Watcher, cancel func()) { cancel() }, errs.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			h := New(ordinary)
			defer h.Close()
			w, err := h.Watch(t.Context(), Request{Path: small})
			if err != nil {
				t.Fatal(err)
			}
			cancel, result := reading(t, h, dir)
			defer cancel()
			test.interrupt(h, w, cancel)
			select {
			case err := <-result:
				if errs.KindOf(err) != test.want {
					t.Errorf("the interrupted Watch returned %v, want kind %v", err, test.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("Watch goes on")
			}
			w.Close()
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.in != nil || len(h.watchers) > 0 {
				t.Errorf("left: %d watchers, an instance: %v", len(h.watchers), h.in != nil)
			}
		})
	}
}

// More directories than a hub may have are refused, also when they come later;
// those let go make room.
func TestMostDirectories(t *testing.T) {
	h := New(ordinary)
	defer h.Close()
	h.most = 150
	dir := tree(t, 101) // 102 with the top
	w, err := h.Watch(t.Context(), Request{Path: dir, Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.Watch(t.Context(), Request{Path: t.TempDir(), Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Watch(t.Context(), Request{Path: dir, Recursive: true})
	if errs.KindOf(err) != errs.Exhausted || !strings.Contains(errs.PublicMessage(err), "150 directories") {
		t.Fatalf("the second watcher: %v", err)
	}
	if err := os.Rename(tree(t, 101), filepath.Join(dir, "come")); err != nil {
		t.Fatal(err)
	}
	if err := drain(t, w); errs.KindOf(err) != errs.Exhausted {
		t.Fatalf("a tree that came: %v", err)
	}
	h.mu.Lock()
	if h.in.bound != 1 || len(h.in.marks) != 1 {
		t.Errorf("%d directories are left of one, with %d watches", h.in.bound, len(h.in.marks))
	}
	h.mu.Unlock()
	again, err := h.Watch(t.Context(), Request{Path: dir + "/0", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	other.Close()
}

// drain takes all events up to the end and returns its error.
func drain(t *testing.T, w *Watcher) error {
	t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		events, done, err := w.Take(1000)
		if done {
			return err
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-w.Ready():
		case <-deadline:
			t.Fatal("the watcher goes on")
		}
	}
}

// The directories a hub counts are those its watchers have, whatever came and
// went.
func TestCount(t *testing.T) {
	h := New(ordinary)
	defer h.Close()
	dir := t.TempDir()
	w, err := h.Watch(t.Context(), Request{Path: dir, Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		from := filepath.Join(dir, fmt.Sprint(i))
		err := errors.Join(os.MkdirAll(from+"/a/b", 0o755), os.Rename(from, from+"-"), os.RemoveAll(from+"-/a"))
		if i%2 == 0 {
			err = errors.Join(err, os.RemoveAll(from+"-"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	bound := func() (bound, marks int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, dirs := range h.in.marks {
			marks += len(dirs)
		}
		return h.in.bound, marks
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		n, marks := bound()
		if n != marks {
			t.Fatalf("counted %d, bound %d", n, marks)
		}
		if n == 26 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d directories are counted of 26", n)
		}
	}
	w.Close()
}

// BenchmarkTree tells what a watched directory costs.
func BenchmarkTree(b *testing.B) {
	dir := tree(b, 50_000)
	for b.Loop() {
		var before, after runtime.MemStats
		h := New(ordinary)
		runtime.GC()
		runtime.ReadMemStats(&before)
		if _, err := h.Watch(b.Context(), Request{Path: dir, Recursive: true}); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(h.in.bound), "B/directory")
		h.Close()
	}
}
