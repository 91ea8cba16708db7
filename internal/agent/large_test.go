package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListLargeDirectory lists a directory that two threads look at: every entry
// keeps its place and its own facts, also where a subdirectory is as large.
func TestListLargeDirectory(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	const files = 5000
	var want []string
	for i := range files {
		for _, in := range []string{dir, filepath.Join(dir, "2500sub")} {
			path := filepath.Join(in, fmt.Sprint(i))
			write(t, path, "", 0o600)
			must(t, os.Truncate(path, int64(i)))
			want = append(want, path)
		}
	}
	marked := filepath.Join(dir, "4321")
	must(t, unix.Setxattr(marked, "user.e2b.k", []byte("v"), 0))
	want = append(want, filepath.Join(dir, "2500sub"))
	slices.Sort(want)

	entries, err := a.listDir(t, dir, 2)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.GetPath())
		var size int64
		if _, err := fmt.Sscan(e.GetName(), &size); e.GetName() != "2500sub" && (err != nil || e.GetSize() != size) {
			t.Fatalf("%s: size %d", e.GetPath(), e.GetSize())
		}
		if marked := e.GetPath() == marked; marked != (e.GetMetadata()["k"] == "v") {
			t.Errorf("%s: metadata %v", e.GetPath(), e.GetMetadata())
		}
	}
	// A directory stands before what it holds, as a path does before longer ones.
	if !slices.Equal(got, want) {
		t.Errorf("%d entries in another order than %d sorted paths", len(got), len(want))
	}
}
