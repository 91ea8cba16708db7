package harness

import (
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/sandlot-dev/sandlot/internal/slot"
)

// Thing is one object of the kernel's that a server makes: a mount, a control
// group, an interface, a packet filter's table, a loop device, a process, or a
// claim of slots.
type Thing struct {
	// Text says what it is, with every name it has.
	Text string
	// Slot is the host-wide number of the sandbox it belongs to, -1 if unknown.
	Slot slot.Slot
}

// Host is all Things of this machine at one moment.
type Host map[Thing]struct{}

// Owner says which things belong to one server. Servers of other tests run at
// the same time, so "the host is as before" can only be asked for one of them.
type Owner struct {
	// Names are words of which one is in the text of each of its things.
	Names []string
	// Blocks are the blocks of slots it has claimed at any time.
	Blocks []int
}

// slotsPerBlock is how many slots a server claims at once; see package slot.
const slotsPerBlock = 256

// OwnerOf is the owner of what a server with this data directory makes now.
// Ask while it lives: its claims end with it.
func OwnerOf(dataDir string) Owner {
	o := Owner{Names: []string{dataDir}}
	files, _ := filepath.Glob(filepath.Join(slot.DefaultDir, "[0-9]*"))
	for _, file := range files {
		block, err := strconv.Atoi(filepath.Base(file))
		claimed, readErr := os.ReadFile(file)
		if err == nil && readErr == nil && string(claimed) == dataDir {
			o.Blocks = append(o.Blocks, block)
		}
	}
	return o.withGroups()
}

// withGroups adds the control groups in which the owner's processes are.
func (o Owner) withGroups() Owner {
	for thing := range processes {
		_, group, _ := strings.Cut(thing.Text, " in /")
		for part := range strings.SplitSeq(group, "/") {
			if thing.Slot >= 0 && strings.HasPrefix(part, "sandlot-") && o.has(thing) {
				o.Names = append(o.Names, part)
			}
		}
	}
	slices.Sort(o.Names)
	o.Names = slices.Compact(o.Names)
	return o
}

// and joins two owners.
func (o Owner) and(other Owner) Owner {
	names, blocks := append(o.Names, other.Names...), append(o.Blocks, other.Blocks...)
	slices.Sort(names)
	slices.Sort(blocks)
	return Owner{slices.Compact(names), slices.Compact(blocks)}
}

func (o Owner) has(t Thing) bool {
	if t.Slot >= 0 && slices.Contains(o.Blocks, int(t.Slot)/slotsPerBlock) {
		return true
	}
	return slices.ContainsFunc(o.Names, func(name string) bool { return strings.Contains(t.Text, name) })
}

// Snapshot lists what is on the host.
func Snapshot(t testing.TB) Host {
	t.Helper()
	h := Host{}
	for _, list := range []func(func(Thing) bool){mounts, cgroups, interfaces, tables, loops, processes, claims} {
		for thing := range list {
			h[thing] = struct{}{}
		}
	}
	return h
}

// Since returns what of the owner's things h has and before has not, sorted.
func (h Host) Since(before Host, owner Owner) []string {
	var out []string
	for thing := range maps.Keys(h) {
		if _, old := before[thing]; !old && owner.has(thing) {
			out = append(out, thing.Text)
		}
	}
	slices.Sort(out)
	return out
}

// settle is how long the kernel may take to finish tearing things down.
const settle = 15 * time.Second

// AssertSame fails the test if the host still has things of the owner that it
// had not before, giving them time to go.
func AssertSame(t testing.TB, before Host, owner Owner) {
	t.Helper()
	deadline := time.Now().Add(settle)
	for {
		left := Snapshot(t).Since(before, owner)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d things are left on the host:\n  %s", len(left), strings.Join(left, "\n  "))
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// mountsUnder lists the mount points at or below dir.
func mountsUnder(dir string) []string {
	var out []string
	for thing := range mounts {
		if point := strings.Fields(thing.Text)[1]; point == dir || strings.HasPrefix(point, dir+"/") {
			out = append(out, point)
		}
	}
	return out
}

// mounts lists the mounts of this process's namespace with source and options,
// where the data directory shows also if the mount point is elsewhere.
func mounts(yield func(Thing) bool) {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		if !yield(Thing{fmt.Sprintf("mount %s from %s (%s, %s)", f[4], g[1], g[0], g[2]), -1}) {
			return
		}
	}
}

// cgroups lists Sandlot's control groups in every hierarchy.
func cgroups(yield func(Thing) bool) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // groups vanish while we look
		}
		if entry.IsDir() && strings.Contains(path, "sandlot") && !yield(Thing{"cgroup " + path, -1}) {
			return fs.SkipAll
		}
		return nil
	})
}

// interfaces lists the host's ends of the sandboxes' networks.
func interfaces(yield func(Thing) bool) {
	list, _ := net.Interfaces()
	for _, i := range list {
		if n, ok := slot.FromInterface(i.Name); ok && !yield(Thing{"interface " + i.Name, n}) {
			return
		}
	}
}

// tables lists the packet filter's tables.
func tables(yield func(Thing) bool) {
	conn, err := nftables.New()
	if err != nil {
		return
	}
	list, _ := conn.ListTables() // none without root
	for _, table := range list {
		if !yield(Thing{"table " + table.Name, -1}) {
			return
		}
	}
}

// loops lists loop devices in use, with their files.
func loops(yield func(Thing) bool) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		name, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		text := fmt.Sprintf("loop %s of %s", strings.Split(file, "/")[3], strings.TrimSpace(string(name)))
		if !yield(Thing{text, -1}) {
			return
		}
	}
}

// claims lists the claimed blocks of slots.
func claims(yield func(Thing) bool) {
	files, _ := filepath.Glob(filepath.Join(slot.DefaultDir, "[0-9]*"))
	for _, file := range files {
		owner, _ := os.ReadFile(file)
		if !yield(Thing{fmt.Sprintf("claim %s of %s", file, owner), -1}) {
			return
		}
	}
}

// processes lists those of servers (by command line) and of sandboxes (by
// user id and control group).
func processes(yield func(Thing) bool) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		group, _ := os.ReadFile(dir + "/cgroup")
		args, _ := os.ReadFile(dir + "/cmdline")
		cmdline := strings.TrimRight(strings.ReplaceAll(string(args), "\x00", " "), " ")
		place, number := sandlotGroup(string(group)), processSlot(dir)
		if pid == os.Getpid() || (place == "" && number < 0 && !strings.Contains(cmdline, "sandlot ")) {
			continue
		}
		if !yield(Thing{fmt.Sprintf("process %d %q in %s", pid, cmdline, place), number}) {
			return
		}
	}
}

// processSlot derives the slot from the user a process runs as.
func processSlot(dir string) slot.Slot {
	info, err := os.Stat(dir)
	if err != nil {
		return -1
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	first := slot.Slot(0).UIDBase()
	if !ok || stat.Uid < first {
		return -1
	}
	return slot.Slot((stat.Uid - first) / (slot.Slot(1).UIDBase() - first))
}

// sandlotGroup returns the first control group of a process that is Sandlot's.
func sandlotGroup(text string) string {
	for line := range strings.Lines(text) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":/"); ok && strings.Contains(path, "sandlot") {
			return "/" + path
		}
	}
	return ""
}
