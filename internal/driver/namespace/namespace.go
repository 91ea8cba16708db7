// Package namespace is the default isolation driver: Linux namespaces, an
// overlay root with id-mapped layers, cgroups, a seccomp allow-list and bounded
// capabilities, launched by one clone and two executions of the agent, without
// a runtime daemon or shim.
//
// It owns the launching threads, the sandboxes' cgroups and the cache of user
// namespaces. The caller owns what the root file system is made of (layers and
// upper) and attaches networks. Only node's composition root imports it.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/driver"
)

// Options configure a Driver.
type Options struct {
	// RunDir is a directory of the driver's own for mount points.
	RunDir string
	// AgentLayer is the read-only layer that holds the agent and the program
	// that boots it, at AgentPath and BootPath (see package agentbin).
	AgentLayer, AgentPath, BootPath string
	// CgroupParent is the path of the driver's own cgroup below the root of each
	// hierarchy, e.g. "sandlot-1a2b3c4d".
	CgroupParent string
	// Launchers is how many sandboxes may be launched at once (default 2).
	Launchers int
	Logger    *slog.Logger
}

// Driver is the namespace driver. Make it with New and end it with Close.
type Driver struct {
	opts    Options
	seccomp []byte
	userns  *usernsCache
	cgroups *cgroupTree
	thread  threadCalls

	jobs   chan launchJob
	closed chan struct{}
	wg     sync.WaitGroup
	stop   sync.Once
}

var _ driver.Driver = (*Driver)(nil)

// New prepares the driver: compiles the seccomp filter, makes the mount points
// and starts the launching threads. It needs root.
func New(opts Options) (*Driver, error) {
	if opts.Launchers == 0 {
		opts.Launchers = 2
	}
	filter, err := compileSeccomp()
	if err != nil {
		return nil, fmt.Errorf("compile seccomp filter: %w", err)
	}
	tree, err := openCgroupTree(opts.CgroupParent)
	if err != nil {
		return nil, err
	}
	d := &Driver{
		opts:    opts,
		seccomp: filter,
		cgroups: tree,
		thread:  threadCalls{seteuid: setThreadEUID, setns: unix.Setns},
		jobs:    make(chan launchJob),
		closed:  make(chan struct{}),
	}
	d.userns = newUsernsCache(filepath.Join(opts.AgentLayer, opts.BootPath))
	if err := d.makeMountPoints(); err != nil {
		return nil, err
	}
	if err := d.startLaunchers(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Name returns "namespace".
func (d *Driver) Name() string { return "namespace" }

// Close ends the launching threads. Sandboxes go on living.
func (d *Driver) Close() error {
	d.stop.Do(func() { close(d.closed) })
	d.wg.Wait()
	d.userns.close()
	return nil
}

// makeMountPoints makes the directories that every launching thread, in its own
// mount namespace, mounts a sandbox's layers and root on.
func (d *Driver) makeMountPoints() error {
	for _, dir := range []string{upperPoint, rootPoint} {
		if err := os.MkdirAll(filepath.Join(d.opts.RunDir, dir), 0o711); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
	}
	return nil
}

// The mount points, relative to RunDir.
const (
	upperPoint = "upper"
	rootPoint  = "root"
)

func layerPoint(i int) string { return fmt.Sprintf("layer%d", i) }

// Create makes a sandbox's first process, waiting in its namespaces.
func (d *Driver) Create(ctx context.Context, spec driver.Spec) (driver.Instance, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	i := &instance{driver: d, state: driver.State{ID: spec.ID, UIDBase: spec.UIDBase}, spec: spec}
	if err := i.create(ctx); err != nil {
		return nil, errors.Join(err, i.Destroy(context.WithoutCancel(ctx)))
	}
	return i, nil
}
