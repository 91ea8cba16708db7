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
	"testing"
	"time"
)

// Host is everything on this machine that a sandbox server makes, by kind:
// each entry a sentence that names the thing. Servers of other tests may run
// at the same time, so comparisons name what belongs to one of them.
type Host map[string]struct{}

// Snapshot lists mounts, cgroups, interfaces, loop devices and processes.
func Snapshot(t testing.TB) Host {
	t.Helper()
	h := Host{}
	for _, list := range []func() []string{mounts, cgroups, interfaces, loops, processes} {
		for _, item := range list() {
			h[item] = struct{}{}
		}
	}
	return h
}

// Since returns what h has and before has not, sorted. Owner limits it to
// things whose names contain one of the given strings; none means all.
func (h Host) Since(before Host, owner ...string) []string {
	added := maps.Clone(h)
	for item := range before {
		delete(added, item)
	}
	maps.DeleteFunc(added, func(item string, _ struct{}) bool {
		return len(owner) > 0 && !slices.ContainsFunc(owner, func(o string) bool { return strings.Contains(item, o) })
	})
	return slices.Sorted(maps.Keys(added))
}

// settle is how long the kernel may take to finish tearing things down.
const settle = 15 * time.Second

// AssertSame fails the test if the host still has things that it had not
// before and that belong to the given owners, giving them time to go.
func AssertSame(t testing.TB, before Host, owner ...string) {
	t.Helper()
	deadline := time.Now().Add(settle)
	for {
		left := Snapshot(t).Since(before, owner...)
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
	for _, m := range mounts() {
		if point := strings.Fields(m)[1]; point == dir || strings.HasPrefix(point, dir+"/") {
			out = append(out, point)
		}
	}
	return out
}

// mounts lists the mounts of this process's namespace with source and options,
// where the data directory shows also if the mount point is elsewhere.
func mounts() []string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		out = append(out, fmt.Sprintf("mount %s from %s (%s, %s)", f[4], g[1], g[0], g[2]))
	}
	return out
}

// cgroups lists Sandlot's control groups in every hierarchy.
func cgroups() []string {
	var out []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // groups vanish while we look
		}
		if entry.IsDir() && strings.Contains(path, "sandlot") {
			out = append(out, "cgroup "+path)
		}
		return nil
	})
	return out
}

// interfaces lists the network interfaces. They are recorded with their names
// only: a link's other properties change while it lives.
func interfaces() []string {
	list, _ := net.Interfaces()
	var out []string
	for _, i := range list {
		out = append(out, "interface "+i.Name)
	}
	return out
}

// loops lists loop devices in use, with their files.
func loops() []string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var out []string
	for _, file := range files {
		if name, err := os.ReadFile(file); err == nil {
			out = append(out, fmt.Sprintf("loop %s of %s", strings.Split(file, "/")[3], strings.TrimSpace(string(name))))
		}
	}
	return out
}

// processes lists those that belong to a server or a sandbox: by command line,
// or by a control group of Sandlot's.
func processes() []string {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out []string
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		group, _ := os.ReadFile(dir + "/cgroup")
		args, _ := os.ReadFile(dir + "/cmdline")
		cmdline := strings.TrimRight(strings.ReplaceAll(string(args), "\x00", " "), " ")
		place := sandlotGroup(string(group))
		if pid == os.Getpid() || (place == "" && !strings.Contains(cmdline, "sandlot ")) {
			continue
		}
		out = append(out, fmt.Sprintf("process %d %q in %s", pid, cmdline, place))
	}
	return out
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
