package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/boot"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// instance is one sandbox of this driver.
type instance struct {
	driver *Driver
	spec   driver.Spec

	mu      sync.Mutex
	state   driver.State
	cgroup  cgroups.Manager
	attach  chan error // result of joining the cgroup (v1), nil once read
	process *os.Process
	config  *os.File // write end: the first process waits for its end of file
	ready   *os.File // read end: ends when the agent is executed
	socket  *os.File // O_PATH of the agent's socket

	exitOnce sync.Once
	exited   chan struct{}
	exit     driver.Exit
}

var (
	_ driver.Instance    = (*instance)(nil)
	_ driver.Pauser      = (*instance)(nil)
	_ driver.TaskCounter = (*instance)(nil)
)

// create makes cgroup, mounts, namespaces and the waiting first process.
func (i *instance) create(ctx context.Context) error {
	mapped := make(chan error, 1)
	go func() { // beside the cgroup: the first sandbox of a range waits for a process
		_, err := i.driver.userns.get(i.spec.UIDBase)
		mapped <- err
	}()
	var err error
	i.cgroup, err = i.driver.cgroups.create(i.spec.ID, i.spec.Limits)
	if err := errors.Join(err, <-mapped); err != nil {
		return err
	}
	childConfig, config, err := os.Pipe()
	if err != nil {
		return err
	}
	i.config = config
	defer childConfig.Close()
	ready, childReady, err := os.Pipe()
	if err != nil {
		return err
	}
	i.ready = ready
	defer childReady.Close()
	return i.launch(ctx, childConfig, childReady)
}

func (i *instance) launch(ctx context.Context, config, ready *os.File) error {
	job := launchJob{spec: i.spec, cgroupFD: -1, config: config, ready: ready}
	if i.driver.cgroups.unified {
		dir, err := os.Open(i.cgroup.Path(""))
		if err != nil {
			return fmt.Errorf("open cgroup: %w", err)
		}
		defer dir.Close()
		job.cgroupFD = int(dir.Fd())
	}
	process, err := i.driver.submit(ctx, job)
	i.process = process // set even with an error: Destroy must find it
	if err != nil {
		return err
	}
	i.state.PID = process.Pid
	if i.state.StartTime, err = startTime(process.Pid); err != nil {
		return err
	}
	i.watch()
	i.joinCgroup()
	return i.sendConfig()
}

// sendConfig lets the first process begin with what needs nothing more of the
// driver. The pipe holds it all, so this does not block.
func (i *instance) sendConfig() error {
	data, err := json.Marshal(i.driver.agentConfig(i.spec))
	if err != nil {
		return err
	}
	if _, err := i.config.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("send config: %w", err)
	}
	return nil
}

// joinCgroup attaches the waiting process on cgroup v1, where that takes the
// kernel milliseconds: it runs beside the rest of the launch. Start waits for
// it before anything of the sandbox runs.
func (i *instance) joinCgroup() {
	if i.driver.cgroups.unified {
		return
	}
	i.attach = make(chan error, 1)
	go func() { i.attach <- i.cgroup.Apply(i.state.PID) }()
}

// watch owns the wait for the first process's end.
func (i *instance) watch() {
	i.exited = make(chan struct{})
	go func() {
		if err := awaitDeath(i.state.PID); err != nil {
			i.driver.opts.Logger.Error("await end of sandbox", "sandbox_id", i.state.ID, "error", err)
		}
		code := -1 // of a process that is not this one's child, nobody can tell
		if st, err := i.process.Wait(); err == nil {
			code = st.ExitCode()
		}
		i.setExit(code)
	}()
}

// awaitDeath returns when process pid has ended. It waits on a pidfd in the
// runtime's poller: waiting in the kernel would hold a thread per sandbox.
func awaitDeath(pid int) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
}

func (i *instance) setExit(code int) {
	i.exitOnce.Do(func() {
		i.exit = driver.Exit{Code: code, At: time.Now()}
		close(i.exited)
	})
}

// Start lets the first process go on and returns when the agent listens.
func (i *instance) Start(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.config == nil || i.ready == nil {
		return errors.New("sandbox was started already")
	}
	if err := i.joined(ctx); err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	// A first process that failed has closed its end; its words tell why.
	_, werr := i.config.Write([]byte{boot.Go})
	i.config.Close()
	i.config = nil
	if err := i.awaitAgent(ctx); err != nil {
		return err
	}
	if werr != nil {
		return fmt.Errorf("let the agent run: %w", werr)
	}
	return i.openSocket()
}

// joined waits until the first process is in its cgroup. When ctx ends first,
// Destroy waits instead.
func (i *instance) joined(ctx context.Context) error {
	if i.attach == nil {
		return nil
	}
	select {
	case err := <-i.attach:
		i.attach = nil
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitAgent reads the first process's last words before it executes the agent:
// none, if all went well.
func (i *instance) awaitAgent(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = i.ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	words, err := io.ReadAll(io.LimitReader(i.ready, 4096))
	i.ready.Close()
	i.ready = nil
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("await agent: %w", err)
	case len(words) > 0:
		return fmt.Errorf("set up sandbox: %s", words)
	}
	return nil
}

// Wait blocks until the first process has ended.
func (i *instance) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-i.exited:
		return i.exit, nil
	case <-ctx.Done():
		return driver.Exit{}, context.Cause(ctx)
	}
}

// Signal sends sig to the first process.
func (i *instance) Signal(_ context.Context, sig sandbox.Signal) error {
	err := i.process.Signal(unix.Signal(sig))
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return driver.ErrGone
	}
	return err
}

// Stats reads the sandbox's cgroup.
func (i *instance) Stats(context.Context) (driver.Stats, error) {
	return i.driver.cgroups.stats(i.state.ID)
}

// Tasks counts the sandbox's processes and threads.
func (i *instance) Tasks(context.Context) (int64, error) {
	return i.driver.cgroups.tasks(i.state.ID)
}

// State returns what Recover needs.
func (i *instance) State() driver.State { return i.state }

// Freeze stops every process of the sandbox where it is.
func (i *instance) Freeze(context.Context) error { return i.cgroup.Freeze(cgroups.Frozen) }

// Thaw lets them go on.
func (i *instance) Thaw(context.Context) error { return i.cgroup.Freeze(cgroups.Thawed) }

// Dial connects to the agent.
func (i *instance) Dial(ctx context.Context) (conn net.Conn, err error) {
	i.mu.Lock()
	socket := i.socket
	i.mu.Unlock()
	if socket == nil {
		return nil, driver.ErrGone
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, driver.ErrGone
	}
	// Destroy may close the socket meanwhile: Control keeps the number from
	// being given to another sandbox's before the connection is made.
	gone := raw.Control(func(fd uintptr) {
		conn, err = dialQueue(ctx, fmt.Sprintf("/proc/self/fd/%d", fd))
	})
	if gone != nil {
		return nil, driver.ErrGone
	}
	return conn, err
}

// dialQueue connects to the unix socket at path, also when it has more callers
// for a moment than its queue holds: connect(2) then says EAGAIN and does not
// wait as it would for TCP.
func dialQueue(ctx context.Context, path string) (net.Conn, error) {
	const patience, longest = 5 * time.Second, 20 * time.Millisecond
	var d net.Dialer
	start := time.Now()
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, longest) {
		conn, err := d.DialContext(ctx, "unix", path)
		if err == nil || !errors.Is(err, unix.EAGAIN) || time.Since(start) > patience {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// Destroy ends every process and removes what the driver made. Ending PID 1
// ends its whole PID namespace; mounts and network go with the namespaces.
func (i *instance) Destroy(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closeFiles()
	err := i.kill(ctx)
	if i.attach != nil {
		<-i.attach // the process is dead or attached; either way the writer is done
		i.attach = nil
	}
	if i.cgroup != nil && err == nil {
		err = destroy(i.cgroup)
	}
	return err
}

func (i *instance) kill(ctx context.Context) error {
	if i.process == nil {
		return nil
	}
	if i.exited == nil { // launched, but creation failed before watch
		i.watch()
	}
	if err := i.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill first process: %w", err)
	}
	// A frozen process dies when it thaws (cgroup v1).
	if st, err := i.cgroup.GetFreezerState(); err == nil && st == cgroups.Frozen {
		_ = i.cgroup.Freeze(cgroups.Thawed)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	select {
	case <-i.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("first process %d did not die: %w", i.state.PID, context.Cause(ctx))
	}
}

func (i *instance) closeFiles() {
	for _, f := range []**os.File{&i.config, &i.ready, &i.socket} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}
