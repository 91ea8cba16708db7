package namespace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/boot"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// launchJob is one sandbox to be mounted and cloned on a launching thread.
type launchJob struct {
	spec     driver.Spec
	cgroupFD int // -1 on cgroup v1
	config   *os.File
	ready    *os.File
	done     chan<- launched
}

type launched struct {
	process *os.Process
	err     error
}

// threadCalls bring a launching thread back to what it was before a launch.
type threadCalls struct {
	seteuid func(uid int) error
	setns   func(fd, kind int) error
}

// startLaunchers starts the threads that launch sandboxes. Each makes mounts in
// a mount namespace of its own, which lives from one launch to the end of it:
// a crash leaves no mount behind, and no other part of the server sees any.
func (d *Driver) startLaunchers() error {
	ready := make(chan error, d.opts.Launchers)
	for range d.opts.Launchers {
		d.wg.Go(func() { d.launcher(ready) })
	}
	var all error
	for range d.opts.Launchers {
		all = errors.Join(all, <-ready)
	}
	return all
}

// launcher keeps one launching thread at work: one that cannot be brought back to
// what it was dies, and another takes its place. It reports to ready whether the
// first can work. Where a later one cannot, the next job gets the error, and then
// it is tried again.
func (d *Driver) launcher(ready chan<- error) {
	for first := true; ; first = false {
		prepared, ended := make(chan error, 1), make(chan bool, 1)
		go func() { ended <- d.launchThread(prepared) }()
		err := <-prepared
		if first {
			ready <- err
		}
		if spoiled := <-ended; !spoiled && (first || err == nil) {
			return
		}
		if err != nil && !d.refuse(fmt.Errorf("prepare a launching thread: %w", err)) {
			return
		}
	}
}

// refuse answers the next job with err; false if the driver closes before.
func (d *Driver) refuse(err error) bool {
	select {
	case job := <-d.jobs:
		job.done <- launched{nil, err}
		return true
	case <-d.closed:
		return false
	}
}

// launchThread launches sandboxes until the driver closes, or the thread is
// spoiled: left with another effective user id or mount namespace than the
// server's. It owns its thread for good: its namespace, file system ids and
// secure bits differ from the rest of the process while it works. The thread ends
// with it, since it stays locked.
func (d *Driver) launchThread(prepared chan<- error) (spoiled bool) {
	runtime.LockOSThread()
	home, err := prepareThread()
	prepared <- err
	if err != nil {
		return false
	}
	defer home.Close()
	for {
		var job launchJob
		select {
		case job = <-d.jobs:
		case <-d.closed:
			return false
		}
		p, err := d.launch(job)
		// Back to the server's namespace at once: the thread's copy would keep
		// the sandbox's file systems busy.
		back := d.goBack(home)
		job.done <- launched{p, errors.Join(err, back)}
		if back != nil {
			d.opts.Logger.Error("a launching thread is replaced", "error", back)
			return true
		}
	}
}

// goBack undoes what a launch has changed of the thread. The user id comes first:
// entering a namespace takes root's rights.
func (d *Driver) goBack(home *os.File) error {
	if err := d.thread.seteuid(0); err != nil {
		return err
	}
	if err := d.thread.setns(int(home.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("return to the server's mount namespace: %w", err)
	}
	return nil
}

// prepareThread gives the thread its own working directory and root, keeps its
// capabilities across changes of its file system uid, and returns its mount
// namespace.
func prepareThread() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("unshare thread: %w", err)
	}
	const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP, capabilities(7)
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set secure bits (needs CAP_SETPCAP): %w", err)
	}
	return os.Open("/proc/thread-self/ns/mnt")
}

// launch mounts the root and clones the first process, which waits for its
// configuration.
func (d *Driver) launch(job launchJob) (*os.Process, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unshare mount namespace: %w", err)
	}
	// systemd shares the host's mounts; without this, those made here would appear
	// on the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	// Mount options are visible inside: relative ones show nothing of the host.
	if err := unix.Chdir(d.opts.RunDir); err != nil {
		return nil, err
	}
	if err := d.mountRoot(job.spec); err != nil {
		return nil, err
	}
	// The new process cannot walk the directories above its root: they belong
	// to ids outside its user namespace. It starts in the root instead.
	if err := unix.Chdir(rootPoint); err != nil {
		return nil, err
	}
	p, err := d.clone(job)
	if err != nil {
		return p, fmt.Errorf("clone first process: %w", err)
	}
	return p, nil
}

// clone starts the first process as the owner of its user namespace. What the
// kernel counts per user in a namespace it also counts for that namespace's
// owner outside, against the limits of one user there. With root as the owner
// all sandboxes, and the host's own root, would share them. A range's first id
// is nobody's outside, so each sandbox has limits to itself; and since no
// process outside has that id, it gives nobody power over the namespace.
//
// The owner is the thread's effective user id at the moment of cloning. The
// real one stays, and with the thread's secure bits its capabilities do. goBack
// makes it root again.
func (d *Driver) clone(job launchJob) (*os.Process, error) {
	if err := d.thread.seteuid(int(job.spec.UIDBase)); err != nil {
		return nil, err
	}
	program := "./" + d.opts.BootPath
	return os.StartProcess(program, []string{program, boot.Arg}, &os.ProcAttr{
		Env:   bootEnv,
		Files: []*os.File{nil, nil, nil, job.config, job.ready},
		Sys:   sysProcAttr(job),
	})
}

// setThreadEUID changes the effective and file system user id of this thread
// alone; package syscall's way would change all threads'.
func setThreadEUID(uid int) error {
	const unchanged = ^uintptr(0)
	if _, _, no := unix.RawSyscall(unix.SYS_SETRESUID, unchanged, uintptr(uid), unchanged); no != 0 {
		return fmt.Errorf("set effective user id of thread to %d: %w", uid, no)
	}
	return nil
}

func sysProcAttr(job launchJob) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC, // the cgroup namespace follows in boot
		UidMappings:                idMap(job.spec.UIDBase),
		GidMappings:                idMap(job.spec.UIDBase),
		GidMappingsEnableSetgroups: true,
		// A session of its own: a Ctrl-C at the server's terminal ends the
		// server, never a sandbox.
		Setsid:     true,
		Credential: &syscall.Credential{},
	}
	if job.cgroupFD >= 0 {
		attr.UseCgroupFD = true
		attr.CgroupFD = job.cgroupFD
	}
	return attr
}

func idMap(base uint32) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(base), Size: driver.UIDRange}}
}

var errClosed = errs.New(errs.Unavailable, "the server is shutting down")

// submit hands a job to a launching thread and waits for the result. A job that
// was taken is always waited for, or its process would be lost.
func (d *Driver) submit(ctx context.Context, job launchJob) (*os.Process, error) {
	done := make(chan launched, 1)
	job.done = done
	select {
	case d.jobs <- job:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-d.closed:
		return nil, errClosed
	}
	l := <-done
	return l.process, l.err
}

// agentConfig is what the first process needs to become the sandbox.
func (d *Driver) agentConfig(spec driver.Spec) boot.Config {
	return boot.Config{
		Hostname:     spec.Hostname,
		Agent:        filepath.Join("/", d.opts.AgentPath),
		Capabilities: capabilities,
		Seccomp:      d.seccomp,
		ShmBytes:     max(spec.Limits.MemoryBytes/2, 64<<20),
		Env:          agentEnv,
	}
}

// The Go runtime's settings in a sandbox: one processor, since waking a second
// thread costs a short request more than it gains; and no reading of cgroup
// limits, which takes time at each start and keeps the cgroup's files open,
// which a checkpoint cannot hold.
const goDebug = "GODEBUG=containermaxprocs=0,updatemaxprocs=0"

var (
	bootEnv = []string{"GOMAXPROCS=1", "GOGC=off", goDebug}
	// The memory limit is no bound: above it the agent gives back at once what a
	// large request has left, and otherwise only after minutes.
	agentEnv = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=1", "GOGC=50", "GOMEMLIMIT=128MiB", goDebug,
	}
)
