// Package boot is the first half of a sandbox's first process: it runs as PID 1
// of fresh namespaces, still seeing the host's mounts, and turns them into the
// sandbox: pivots into the root file system, mounts /proc, /sys, /dev/pts and
// /dev/shm, masks what the kernel shows too much of, opens the agent's
// listener, gives up capabilities, loads the seccomp filter, and executes the
// agent from inside the root. That second execution is what makes a sandbox one
// checkpointable tree: nothing of the host stays open in it.
//
// It owns the protocol between the namespace driver and this process (Config on
// descriptor 3, an error text on descriptor 4). Only the commands of the agent and the
// driver import it.
package boot

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"

	"golang.org/x/sys/unix"
)

// The descriptors of the first execution, and of the second (ListenerFD).
const (
	ConfigFD   = 3
	ReadyFD    = 4
	ListenerFD = 3
)

// Arg is the argument of the first execution. HoldArg makes the same program
// wait for a byte on its standard input.
const (
	Arg     = "boot"
	HoldArg = "hold"
)

// SocketPath is where the agent listens, inside the sandbox.
const SocketPath = "/run/sandlot/agent.sock"

// Go is the byte that lets the agent run. Without it, at the end of file, the
// driver has gone and so does this process.
const Go = 'g'

// Config is what the driver tells this process: JSON and a newline on
// descriptor 3, as soon as the process exists. Go follows when the driver has
// done its part.
type Config struct {
	Hostname string `json:"hostname"`
	// Agent is the path of this binary inside the root, e.g. /.sandlot/agent.
	Agent string `json:"agent"`
	// Capabilities is the bounding set, as a bit mask (capabilities(7)).
	Capabilities uint64 `json:"capabilities"`
	// Seccomp is the filter: struct sock_filter records (seccomp(2)), empty for none.
	Seccomp []byte `json:"seccomp"`
	// ShmBytes bounds /dev/shm.
	ShmBytes int64 `json:"shm_bytes"`
	// Env is the agent's own environment.
	Env []string `json:"env"`
}

// Main sets the sandbox up and executes the agent. It returns only on error,
// after having written the error to descriptor 4.
func Main() error {
	// Capabilities and seccomp filters belong to threads; exec keeps the
	// calling thread's.
	runtime.LockOSThread()
	// Not only the driver's two: whatever the server itself was started with, a
	// directory of the host's perhaps, came along and must not reach the agent.
	err := unix.CloseRange(ConfigFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		err = run()
	}
	_, _ = unix.Write(ReadyFD, []byte(err.Error())) // nobody else to tell
	return err
}

func run() error {
	driver := bufio.NewReader(rawFD(ConfigFD))
	cfg, err := readConfig(driver)
	if err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(Config) error
	}{
		{"enter root", enterRoot},
		{"set hostname", func(c Config) error { return unix.Sethostname([]byte(c.Hostname)) }},
		{"bring loopback up", func(Config) error { return loopbackUp() }},
		{"replace standard streams", func(Config) error { return nullStdio() }},
		{"bound capabilities", func(c Config) error { return boundCapabilities(c.Capabilities) }},
		// All above happens while the driver moves this process into its cgroup
		// and attaches the network.
		{"await the driver", func(Config) error { return awaitGo(driver) }},
		// Only now, since a cgroup namespace's root is where its maker stands.
		{"unshare cgroup namespace", func(Config) error { return unix.Unshare(unix.CLONE_NEWCGROUP) }},
		{"open listener", func(Config) error { return openListener() }},
		{"load seccomp filter", func(c Config) error { return loadSeccomp(c.Seccomp) }},
	}
	for _, s := range steps {
		if err := s.do(cfg); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return fmt.Errorf("execute %s: %w", cfg.Agent, unix.Exec(cfg.Agent, []string{cfg.Agent}, cfg.Env))
}

// rawFD reads a descriptor without an os.File, whose finalizer would close the
// number after it has become the listener's. It stays open until then, so that
// nothing else takes the number.
type rawFD int

func (fd rawFD) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(fd), p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// readConfig blocks until the driver has sent the configuration.
func readConfig(r *bufio.Reader) (Config, error) {
	var cfg Config
	line, err := r.ReadBytes('\n')
	if err != nil {
		return cfg, fmt.Errorf("read config: %w", gone(err))
	}
	if err := json.Unmarshal(line, &cfg); err != nil {
		return cfg, fmt.Errorf("decode config: %w", err)
	}
	return cfg, nil
}

func awaitGo(r *bufio.Reader) error {
	b, err := r.ReadByte()
	if err != nil {
		return gone(err)
	}
	if b != Go {
		return fmt.Errorf("got %q instead of the word to go", b)
	}
	return nil
}

func gone(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the driver went away")
	}
	return err
}
