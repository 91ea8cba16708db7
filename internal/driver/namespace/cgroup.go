package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// v1Controllers are the hierarchies a sandbox joins on cgroup v1. Each one that
// is left out saves a kernel grace period (3-10 ms) when a process joins.
var v1Controllers = []string{"memory", "cpu", "cpuacct", "pids", "freezer"}

// cgroupTree is the driver's own part of the cgroup hierarchies: one parent,
// one child per sandbox named by its ID.
type cgroupTree struct {
	parent  string
	unified bool
	// roots are the parent's directories, by controller; on cgroup v2 there is
	// one, under the empty name.
	roots map[string]string
	// swap says whether swap can be limited here.
	swap bool
}

func openCgroupTree(parent string) (*cgroupTree, error) {
	t := &cgroupTree{parent: parent, unified: cgroups.IsCgroup2UnifiedMode(), roots: map[string]string{}}
	probe, err := manager.New(&cgroups.Cgroup{Path: "/" + parent, Resources: &cgroups.Resources{SkipDevices: true}})
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	paths := probe.GetPaths()
	if t.unified {
		t.roots[""] = paths[""]
		t.swap = true
		return t, nil
	}
	for _, c := range v1Controllers {
		if p, ok := paths[c]; ok {
			t.roots[c] = p
		}
	}
	for _, c := range []string{"memory", "cpu", "pids"} {
		if t.roots[c] == "" {
			return nil, fmt.Errorf("cgroup v1 controller %q is not mounted; mount it below /sys/fs/cgroup", c)
		}
	}
	_, err = os.Stat(filepath.Join(filepath.Dir(t.roots["memory"]), "memory.memsw.limit_in_bytes"))
	t.swap = err == nil
	return t, nil
}

// resources translates limits into what the kernel takes.
func (t *cgroupTree) resources(l sandbox.Limits) *cgroups.Resources {
	r := &cgroups.Resources{
		Memory:      l.MemoryBytes,
		CpuShares:   l.CPUShares,
		CpuQuota:    int64(l.CPUs) * 100_000,
		CpuPeriod:   100_000,
		PidsLimit:   &l.PIDs,
		SkipDevices: true,
	}
	if t.unified {
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(l.CPUShares)
		r.CpuShares = 0
	}
	if t.swap {
		r.MemorySwap = l.MemoryBytes + l.SwapBytes
	}
	return r
}

func (t *cgroupTree) open(id sandbox.ID, l sandbox.Limits) (cgroups.Manager, error) {
	paths := make(map[string]string, len(t.roots))
	for c, root := range t.roots {
		paths[c] = filepath.Join(root, string(id))
	}
	return manager.NewWithPaths(&cgroups.Cgroup{Path: "/" + t.parent + "/" + string(id), Resources: t.resources(l)}, paths)
}

// create makes a sandbox's cgroup with its limits and nobody in it.
func (t *cgroupTree) create(id sandbox.ID, l sandbox.Limits) (cgroups.Manager, error) {
	m, err := t.open(id, l)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	if err := m.Apply(-1); err != nil {
		return nil, errors.Join(fmt.Errorf("make cgroup: %w", err), m.Destroy())
	}
	if err := m.Set(t.resources(l)); err != nil {
		return nil, errors.Join(fmt.Errorf("set cgroup limits: %w", err), m.Destroy())
	}
	if err := t.limitSockets(m, l); err != nil {
		return nil, errors.Join(fmt.Errorf("limit socket buffers: %w", err), m.Destroy())
	}
	return m, nil
}

// maxSocketBytes bounds the TCP buffers of a sandbox on cgroup v1, where they
// do not count as its memory. On cgroup v2 they do.
const maxSocketBytes = 64 << 20

func (t *cgroupTree) limitSockets(m cgroups.Manager, l sandbox.Limits) error {
	if t.unified {
		return nil
	}
	err := cgroups.WriteFile(m.Path("memory"), "memory.kmem.tcp.limit_in_bytes", strconv.FormatInt(min(maxSocketBytes, l.MemoryBytes), 10))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without the limit; doctor reports v1 as second best
	}
	return err
}

// list returns the names of all sandboxes that have a cgroup in any hierarchy.
func (t *cgroupTree) list() ([]sandbox.ID, error) {
	seen := map[sandbox.ID]bool{}
	var ids []sandbox.ID
	for _, root := range t.roots {
		entries, err := os.ReadDir(root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			id := sandbox.ID(e.Name())
			if e.IsDir() && id.Valid() && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}

// removeParent removes the parents when no sandbox is left.
func (t *cgroupTree) removeParent() {
	for _, root := range t.roots {
		_ = os.Remove(root) // not empty or not there: both fine
	}
}

// destroyTimeout bounds how long a cgroup's removal is tried.
const destroyTimeout = 2 * time.Second

// destroy removes a cgroup whose processes are dead. The kernel lets go of them
// a little after they were reaped, so EBUSY is tried again.
func destroy(m cgroups.Manager) error {
	deadline := time.Now().Add(destroyTimeout)
	for wait := time.Millisecond; ; wait *= 2 {
		err := m.Destroy() // which itself waits a little
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(wait)
	}
}
