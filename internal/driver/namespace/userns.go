package namespace

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/sandlot-dev/sandlot/internal/agent/boot"
)

// usernsCache holds one user namespace per uid range, as a descriptor: what an
// id-mapped mount takes its mapping from. Making one costs a process; ranges
// are used again, so each is made once.
type usernsCache struct {
	holder string // a program that waits on its standard input

	mu  sync.Mutex
	fds map[uint32]*os.File
}

func newUsernsCache(holder string) *usernsCache {
	return &usernsCache{holder: holder, fds: map[uint32]*os.File{}}
}

// get returns the namespace of a range. The cache owns the file.
func (c *usernsCache) get(base uint32) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.fds[base]; ok {
		return f, nil
	}
	f, err := c.make(base)
	if err != nil {
		return nil, fmt.Errorf("make user namespace at %d: %w", base, err)
	}
	c.fds[base] = f
	return f, nil
}

// make starts a process in a new user namespace, opens the namespace, and ends
// the process; the descriptor keeps the namespace.
func (c *usernsCache) make(base uint32) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	p, err := os.StartProcess(c.holder, []string{c.holder, boot.HoldArg}, &os.ProcAttr{
		Env:   bootEnv,
		Files: []*os.File{r, nil, nil},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: idMap(base),
			GidMappings: idMap(base),
		},
	})
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", p.Pid))
	_ = p.Kill()
	_, _ = p.Wait()
	return f, err
}

func (c *usernsCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for base, f := range c.fds {
		f.Close()
		delete(c.fds, base)
	}
}
