package namespace

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Both versions' accounts mean the same: shared memory is used, not cached.
func TestAccounts(t *testing.T) {
	v2 := map[string]string{
		"cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n", "memory.current": "900\n", "pids.current": "7\n",
		"memory.stat": "anon 300\nfile 500\nkernel 100\nshmem 200\nfile_mapped 50\n",
	}
	v1 := map[string]string{
		"cpuacct.usage": "2500000000\n", "memory.usage_in_bytes": "900\n", "pids.current": "7\n",
		"memory.stat": "cache 1\nshmem 2\ntotal_cache 500\ntotal_rss 300\ntotal_shmem 200\n",
	}
	for name, c := range map[string]struct {
		unified bool
		files   map[string]string
	}{"v1": {false, v1}, "v2": {true, v2}} {
		t.Run(name, func(t *testing.T) {
			tree, id := accountTree(t, c.unified, c.files)
			want := driver.Stats{CPUTime: 2500 * time.Millisecond, MemoryBytes: 900, CacheBytes: 300}
			if got, err := tree.stats(id); got != want || err != nil {
				t.Errorf("%+v, %v; want %+v", got, err, want)
			}
			if n, err := tree.tasks(id); n != 7 || err != nil {
				t.Errorf("%d tasks, %v", n, err)
			}
			for file := range c.files {
				for fault, text := range map[string]string{"nonsense": "nonsense\n", "emptied": ""} {
					broken := maps.Clone(c.files)
					broken[file] = text
					tree, id := accountTree(t, c.unified, broken)
					_, err := tree.stats(id)
					if _, err2 := tree.tasks(id); err == nil && err2 == nil {
						t.Errorf("%s %s is no error", file, fault)
					}
				}
			}
			if _, err := tree.stats(sandbox.NewID()); err == nil {
				t.Error("a cgroup that does not exist is no error")
			}
		})
	}
}

// accountTree is a tree with the files of one sandbox.
func accountTree(t *testing.T, unified bool, files map[string]string) (*cgroupTree, sandbox.ID) {
	t.Helper()
	root, id := t.TempDir(), sandbox.NewID()
	if err := os.Mkdir(filepath.Join(root, string(id)), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, string(id), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &cgroupTree{unified: unified, roots: map[string]string{"": root, "memory": root, "cpuacct": root, "pids": root}}, id
}
