package namespace

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// account reads a sandbox's accounts: a few files, and only those. It is asked
// for every sandbox every few seconds, so descriptors are not kept (three
// per sandbox would be thousands) and nothing is read that nobody wants. After the
// first error it reads nothing more.
type account struct {
	tree *cgroupTree
	id   sandbox.ID
	buf  [8 << 10]byte // more than memory.stat has
	err  error
}

// stats reads what a sandbox's cgroup is charged.
func (t *cgroupTree) stats(id sandbox.ID) (driver.Stats, error) {
	a := account{tree: t, id: id}
	var s driver.Stats
	if t.unified {
		s = a.v2()
	} else {
		s = a.v1()
	}
	if a.err != nil {
		return driver.Stats{}, fmt.Errorf("read cgroup: %w", a.err)
	}
	return s, nil
}

// tasks counts what runs in a sandbox's cgroup.
func (t *cgroupTree) tasks(id sandbox.ID) (int64, error) {
	a := account{tree: t, id: id}
	controller := "pids"
	if t.unified {
		controller = ""
	}
	n := a.number(controller, "pids.current")
	return n, a.err
}

func (a *account) v1() driver.Stats {
	memory := a.fields("memory", "memory.stat", "total_cache", "total_shmem")
	return driver.Stats{
		CPUTime:     time.Duration(a.number("cpuacct", "cpuacct.usage")),
		MemoryBytes: a.number("memory", "memory.usage_in_bytes"),
		CacheBytes:  memory[0] - memory[1], // shared memory is no cache: it can only be swapped
	}
}

func (a *account) v2() driver.Stats {
	memory := a.fields("", "memory.stat", "file", "shmem")
	cpu := a.fields("", "cpu.stat", "usage_usec")
	return driver.Stats{
		CPUTime:     time.Duration(cpu[0]) * time.Microsecond,
		MemoryBytes: a.number("", "memory.current"),
		CacheBytes:  memory[0] - memory[1],
	}
}

// number reads a file that holds one number.
func (a *account) number(controller, file string) int64 {
	text := bytes.TrimSpace(a.read(controller, file))
	if a.err != nil {
		return 0
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		a.err = fmt.Errorf("%s holds %q", file, text)
	}
	return n
}

// fields reads values of a file with a name and a number on each line.
func (a *account) fields(controller, file string, names ...string) []int64 {
	values := make([]int64, len(names))
	found := 0
	for line := range bytes.Lines(a.read(controller, file)) {
		name, text, _ := bytes.Cut(bytes.TrimSuffix(line, []byte{'\n'}), []byte{' '})
		for i, wanted := range names {
			if string(name) != wanted {
				continue
			}
			n, err := strconv.ParseInt(string(text), 10, 64)
			if err != nil {
				a.err = fmt.Errorf("%s of %s is %q", name, file, text)
			}
			values[i] = n
			found++
		}
	}
	if a.err == nil && found != len(names) {
		a.err = fmt.Errorf("%s lacks some of %q", file, names)
	}
	return values
}

// read returns a file's text, valid until the next read. It is one open, one
// read and one close; package os does more than twice the work.
func (a *account) read(controller, file string) []byte {
	if a.err != nil {
		return nil
	}
	root, ok := a.tree.roots[controller]
	if !ok {
		a.err = fmt.Errorf("cgroup v1 controller %q is not mounted", controller)
		return nil
	}
	path := filepath.Join(root, string(a.id), file)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		a.err = fmt.Errorf("open %s: %w", file, err)
		return nil
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, a.buf[:])
	if err != nil {
		a.err = fmt.Errorf("read %s: %w", file, err)
		return nil
	}
	return a.buf[:n]
}
