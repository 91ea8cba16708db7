package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/driver/drivertest"
	"github.com/sandlot-dev/sandlot/internal/driver/fault"
	"github.com/sandlot-dev/sandlot/internal/driver/namespace"
	"github.com/sandlot-dev/sandlot/internal/netns"
	"github.com/sandlot-dev/sandlot/internal/rootfs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/slot"
	"github.com/sandlot-dev/sandlot/internal/store/sqlite"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// realParts is a node's parts as the daemon puts them together, with a data
// directory, cgroups, a table and slots of its own.
type realParts struct {
	name    string
	image   string
	driver  *namespace.Driver
	hooks   *fault.Hooks
	uppers  *rootfs.Pool
	slots   *slot.Pool
	network *netns.Network
	store   *sqlite.Store
	node    *Node
}

// imageDir is an image that is a directory already.
type imageDir string

func (d imageDir) Mount(context.Context, string) (string, error) { return string(d), nil }

func openReal(t *testing.T, programs ...string) *realParts {
	t.Helper()
	testreq.Root(t)
	testreq.Command(t, "mkfs.btrfs", "btrfs-progs")
	dir, err := os.MkdirTemp("/var/tmp", "sandlot-node-") // not /tmp: it may be in memory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, "remove data directory", os.RemoveAll(dir)) })
	p := &realParts{name: netns.TablePrefix + "test-" + filepath.Base(dir), image: drivertest.RootLayer(t, programs...), hooks: &fault.Hooks{}}
	p.open(t, dir)
	p.node = New(p.options(p.hooks))
	t.Cleanup(func() { check(t, "close node", p.node.Close(context.Background())) })
	return p
}

func (p *realParts) open(t *testing.T, dir string) {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	var err error
	if p.store, err = sqlite.Open(t.Context(), filepath.Join(dir, "registry.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, "close store", p.store.Close()) })
	if p.uppers, err = rootfs.Open(t.Context(), rootfs.Options{Dir: filepath.Join(dir, "pool"), SizeBytes: 2 << 30, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, "close pool", p.uppers.Close()) })
	if p.slots, err = slot.Open(slot.DefaultDir, dir, func(s slot.Slot) bool { return netns.Exists(s.Interface()) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, "forget slots", p.slots.Forget()) })
	p.driver, err = namespace.New(namespace.Options{
		RunDir: filepath.Join(dir, "run"), AgentLayer: drivertest.AgentLayer(t), AgentPath: drivertest.AgentPath, BootPath: drivertest.BootPath,
		CgroupParent: p.name, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := p.driver.Sweep(context.Background(), nil)
		check(t, "close driver", errors.Join(err, p.driver.Close()))
	})
	p.openNetwork(t, logger)
}

func (p *realParts) openNetwork(t *testing.T, logger *slog.Logger) {
	t.Helper()
	var err error
	// The upstream is nobody's port: these tests ask for no names.
	p.network, err = netns.Open(t.Context(), netns.Options{Table: p.name, Upstreams: []string{"127.0.0.1:1"}, Logger: logger}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		check(t, "close network", errors.Join(p.network.Close(context.Background()), netns.RemoveTable(p.name), netns.RestoreForwarding()))
	})
}

// options are the parts with hooks in the driver.
func (p *realParts) options(h *fault.Hooks) Options {
	return Options{
		Driver: fault.New(p.driver, *h), Images: imageDir(p.image), Uppers: p.uppers, Slots: p.slots, Network: p.network,
		Boxes: p.store, Logger: slog.New(slog.DiscardHandler),
	}
}

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// request is what these tests launch.
func request() control.LaunchRequest {
	return control.LaunchRequest{Template: sandbox.Template{ID: "base", Image: "image", User: "user"}}
}

// kept lists what sandboxes of these parts hold, on the host and in this
// process; nothing is what it should be when there are none.
func (p *realParts) kept(t *testing.T) []string {
	t.Helper()
	var out []string
	out = append(out, p.cgroups()...)
	for _, pid := range p.processes() {
		out = append(out, fmt.Sprintf("process %d", pid))
	}
	out = append(out, p.interfaces()...)
	out = append(out, p.elements(t)...)
	uppers, err := p.uppers.List()
	check(t, "list uppers", err)
	for _, id := range uppers {
		out = append(out, "upper "+string(id))
	}
	boxes, err := p.store.Boxes(t.Context())
	check(t, "list boxes", err)
	for _, b := range boxes {
		out = append(out, "row "+string(b.ID))
	}
	for s := range slot.Slot(8192) {
		if p.slots.InUse(s) {
			out = append(out, "slot "+s.Interface())
		}
	}
	return out
}

func (p *realParts) cgroups() []string {
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + p.name + "/i???????????????????", "/sys/fs/cgroup/*/" + p.name + "/i???????????????????"} {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			out = append(out, "cgroup "+f)
		}
	}
	return out
}

// processes finds the sandboxes' by their user ids.
func (p *realParts) processes() []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil {
			continue
		}
		uid := info.Sys().(*syscall.Stat_t).Uid
		if first := slot.Slot(0).UIDBase(); uid >= first && p.slots.Owns(slot.Slot((uid-first)/driver.UIDRange)) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			out = append(out, pid)
		}
	}
	return out
}

func (p *realParts) interfaces() []string {
	var out []string
	names, _ := netns.Interfaces("sl")
	for _, n := range names {
		if s, ok := slot.FromInterface(n); ok && p.slots.Owns(s) {
			out = append(out, "interface "+n)
		}
	}
	return out
}

// elements lists what the packet filter still knows.
func (p *realParts) elements(t *testing.T) []string {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	set, err := conn.GetSetByName(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: p.name}, "addresses")
	if err != nil {
		t.Fatal(err)
	}
	elements, err := conn.GetSetElements(set)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, 0, len(elements))
	for _, e := range elements {
		out = append(out, fmt.Sprintf("element %q", e.Key))
	}
	return out
}

// wantNothing waits for the kernel, which removes interfaces in the background.
func (p *realParts) wantNothing(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := p.kept(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// footprint is what a launch may leave in this process: mounts, descriptors,
// goroutines and threads in other mount namespaces.
type footprint struct {
	mounts, hostMounts, files, goroutines, namespaces int
}

func measure(t *testing.T) footprint {
	t.Helper()
	f := footprint{
		mounts: lines(t, "/proc/self/mountinfo"), hostMounts: lines(t, "/proc/1/mountinfo"), goroutines: runtime.NumGoroutine(),
	}
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, "list descriptors", err)
	for _, e := range entries {
		// The driver keeps one user namespace per range of ids on purpose.
		if target, _ := os.Readlink("/proc/self/fd/" + e.Name()); !strings.HasPrefix(target, "user:") {
			f.files++
		}
	}
	seen := map[string]bool{}
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/mnt")
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil {
			seen[ns] = true
		}
	}
	f.namespaces = len(seen)
	return f
}

// measureInside measures as a subtest will, which adds a goroutine.
func measureInside(t *testing.T) (f footprint) {
	t.Helper()
	t.Run("baseline", func(t *testing.T) { f = measure(t) })
	return f
}

func lines(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, "read "+path, err)
	return strings.Count(string(data), "\n")
}

// wantFootprint waits until this process holds no more than before.
func wantFootprint(t *testing.T, before footprint) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		now := measure(t)
		if now.mounts == before.mounts && now.namespaces == before.namespaces &&
			now.files <= before.files && now.goroutines <= before.goroutines {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("this process held %+v and now holds %+v", before, now)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
