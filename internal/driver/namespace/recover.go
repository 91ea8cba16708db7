package namespace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/boot"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Recover adopts a sandbox that an earlier server process made.
func (d *Driver) Recover(_ context.Context, state driver.State) (driver.Instance, error) {
	process, err := os.FindProcess(state.PID) // holds a pidfd: the number cannot be reused unseen from here on
	if err != nil {
		return nil, driver.ErrGone
	}
	if t, err := startTime(state.PID); err != nil || t != state.StartTime {
		return nil, driver.ErrGone
	}
	cg, err := d.cgroups.open(state.ID, sandbox.DefaultLimits())
	if err != nil {
		return nil, err
	}
	i := &instance{driver: d, state: state, cgroup: cg, process: process, spec: driver.Spec{ID: state.ID, UIDBase: state.UIDBase}}
	if err := i.openSocket(); err != nil {
		return nil, unreachable(err)
	}
	i.watch()
	return i, nil
}

// unreachable classes a failure to reach a living sandbox's agent. Lacking
// memory or descriptors is the host's trouble and passes; anything else the
// sandbox has done to itself, and it is lost to everybody.
func unreachable(err error) error {
	for _, passing := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, passing) {
			return fmt.Errorf("reach agent: %w", err)
		}
	}
	return fmt.Errorf("%w: its agent cannot be reached: %w", driver.ErrGone, err)
}

// openSocket finds the agent's socket once and keeps it. The path is resolved
// inside the sandbox's root without following any link, so nothing the sandbox
// plants can lead to a socket of the host's.
func (i *instance) openSocket() error {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", i.state.PID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open sandbox root: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, strings.TrimPrefix(boot.SocketPath, "/"), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return fmt.Errorf("open agent socket: %w", err)
	}
	i.socket = os.NewFile(uintptr(fd), "agent.sock")
	return nil
}

// startTime returns when a process began, in clock ticks since boot: field 22 of
// proc_pid_stat(5), counted behind the command's closing parenthesis.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	const startTimeField = 22 - 3 // the state, field 3, is the first behind the command
	if end < 0 || len(fields) <= startTimeField {
		return 0, fmt.Errorf("malformed /proc/%d/stat", pid)
	}
	return strconv.ParseUint(fields[startTimeField], 10, 64)
}

// Sweep ends and removes every sandbox of this driver's cgroup tree that is not
// in keep.
func (d *Driver) Sweep(ctx context.Context, keep []driver.State) ([]string, error) {
	kept := map[sandbox.ID]bool{}
	for _, s := range keep {
		kept[s.ID] = true
	}
	ids, err := d.cgroups.list()
	if err != nil {
		return nil, fmt.Errorf("list cgroups: %w", err)
	}
	var swept []string
	var all error
	for _, id := range ids {
		if kept[id] {
			continue
		}
		if err := d.sweepOne(ctx, id); err != nil {
			all = errors.Join(all, fmt.Errorf("sweep %s: %w", id, err))
			continue
		}
		swept = append(swept, "cgroup and processes of "+string(id))
	}
	if len(kept) == 0 {
		d.cgroups.removeParent()
	}
	return swept, all
}

// sweepOne ends whatever runs in an orphaned cgroup, and removes it.
func (d *Driver) sweepOne(_ context.Context, id sandbox.ID) error {
	m, err := d.cgroups.open(id, sandbox.DefaultLimits())
	if err != nil {
		return err
	}
	// Processes may join or fork while they are being killed, hence again.
	for range 3 {
		if err = errors.Join(killAll(m), destroy(m)); err == nil {
			return nil
		}
	}
	return err
}

func killAll(m cgroups.Manager) error {
	_ = m.Freeze(cgroups.Thawed) // what is frozen dies only when it thaws (cgroup v1)
	for _, dir := range m.GetPaths() {
		pids, err := cgroups.GetAllPids(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already: fine
		}
	}
	return nil
}
