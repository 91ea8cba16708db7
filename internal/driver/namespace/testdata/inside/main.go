// Command inside runs in a sandbox and tries, one attempt per argument, what
// sandboxes must not be able to do. It prints a line per attempt: its name and
// the outcome, "ok" or the name of an error number.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	for _, name := range os.Args[1:] {
		if try, ok := attempts[name]; ok {
			fmt.Println(name, outcome(try()))
			continue
		}
		fmt.Println(name, "unknown")
	}
}

func outcome(err error) string {
	var no syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &no):
		return unix.ErrnoName(no)
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}

// call makes a system call with whatever arguments.
func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, no := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if no != 0 {
		return no
	}
	return nil
}

// clone makes a child with flags; the child ends at once.
func clone(flags uintptr) error {
	pid, _, no := syscall.RawSyscall6(syscall.SYS_CLONE, flags|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if no != 0 {
		return no
	}
	if pid == 0 {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
	_, err := syscall.Wait4(int(pid), nil, 0, nil)
	return err
}

var attempts = map[string]func() error{
	"clone":             func() error { return clone(0) },
	"clone-newuser":     func() error { return clone(unix.CLONE_NEWUSER) },
	"clone-newns":       func() error { return clone(unix.CLONE_NEWNS) },
	"clone-newnet":      func() error { return clone(unix.CLONE_NEWNET) },
	"clone-newpid-high": func() error { return clone(1<<32 | unix.CLONE_NEWPID) },
	"clone3":            func() error { return call(unix.SYS_CLONE3, 0, 0) },
	"unshare-user":      func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"unshare-mount":     func() error { return unix.Unshare(unix.CLONE_NEWNS) },
	"setns":             func() error { return unix.Setns(0, 0) },
	"mount":             func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
	"umount":            func() error { return unix.Unmount("/proc/sys", unix.MNT_DETACH) },
	"fsopen":            func() error { _, err := unix.Fsopen("tmpfs", 0); return err },
	"open-tree":         func() error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", 0); return err },
	"pivot-root":        func() error { return unix.PivotRoot("/tmp", "/tmp") },
	"bpf":               func() error { return call(unix.SYS_BPF, 0, 0, 0) },
	"keyctl":            func() error { return call(unix.SYS_KEYCTL, 0, 0) },
	"add-key":           func() error { return call(unix.SYS_ADD_KEY) },
	"io-uring":          func() error { return call(unix.SYS_IO_URING_SETUP, 8, 0) },
	"userfaultfd":       func() error { return call(unix.SYS_USERFAULTFD, 0) },
	"perf":              func() error { return call(unix.SYS_PERF_EVENT_OPEN) },
	"init-module":       func() error { return call(unix.SYS_INIT_MODULE) },
	"kexec":             func() error { return call(unix.SYS_KEXEC_LOAD) },
	"reboot":            func() error { return call(unix.SYS_REBOOT, 0, 0, 0) },
	"settimeofday":      func() error { return call(unix.SYS_SETTIMEOFDAY, 0, 0) },
	"syslog":            func() error { return call(unix.SYS_SYSLOG, 3, 0, 0) },
	"open-by-handle":    func() error { return call(unix.SYS_OPEN_BY_HANDLE_AT) },
	"quotactl":          func() error { return call(unix.SYS_QUOTACTL) },
	"swapon":            func() error { return call(unix.SYS_SWAPON) },
	"unknown-call":      func() error { return call(0x3ff) },
	"x32-getpid":        func() error { return call(0x40000000 | unix.SYS_GETPID) },
	"tiocsti":           func() error { return tiocsti(unix.TIOCSTI) },
	"tiocsti-high":      func() error { return tiocsti(1<<32 | unix.TIOCSTI) },
	"tiocsti-signed":    func() error { return tiocsti(0xffffffff<<32 | unix.TIOCSTI) },
	"tioclinux":         func() error { return tiocsti(unix.TIOCLINUX) },
	"socket-packet":     func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) },
	"socket-netlink":    func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) },
	"socket-netfilter":  func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER) },
	"socket-vsock":      func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
	"socket-alg":        func() error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) },
	"socket-inet":       func() error { return socket(unix.AF_INET, unix.SOCK_STREAM, 0) },
	"mknod":             func() error { return unix.Mknod("/tmp/device", unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))) },
	"mknod-kmsg":        func() error { return unix.Mknod("/tmp/kmsg", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))) },
	"mkfifo":            func() error { return unix.Mkfifo("/tmp/fifo", 0o600) },
	"ptrace":            ptrace,
	"write-sysctl":      func() error { return write("/proc/sys/kernel/core_pattern") },
	"write-net-sysctl":  func() error { return write("/proc/sys/net/ipv4/ip_forward") },
	"write-sysrq":       func() error { return write("/proc/sysrq-trigger") },
	"write-sys":         func() error { return write("/sys/kernel/mm/transparent_hugepage/enabled") },
	"write-uevent":      func() error { return write("/sys/kernel/uevent_helper") },
	"write-agent":       func() error { return write("/proc/1/exe") },
	"write-agent-file":  func() error { return replace("/.sandlot/agent") },
	"read-kcore":        func() error { return empty("/proc/kcore") },
	"read-keys":         func() error { return empty("/proc/keys") },
	"read-timers":       func() error { return empty("/proc/timer_list") },
	"read-firmware":     func() error { return empty("/sys/firmware") },
	"raise-rlimit": func() error {
		return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	},
	"oom-score": func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) },
	"eat":       eat,
	"fork":      fork,
	"bind-port": func() error { return bindPort() },
	"set-host":  func() error { return unix.Sethostname([]byte("other")) },

	"keep-inotify":   func() error { return keep("inotify", inotify) },
	"some-inotify":   func() error { return several(inotify) },
	"some-terminals": func() error { return several(terminal) },
	"some-timers":    func() error { return several(timer) },
	"take-inotify":   func() error { return takeAll("inotify", inotify) },
	"take-terminals": func() error { return takeAll("terminals", terminal) },
	"take-timers":    func() error { return takeAll("timers", timer) },
}

func socket(family, typ, proto int) error {
	fd, err := unix.Socket(family, typ, proto)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// tiocsti types into a terminal of its own. ENOTTY would mean that the kernel
// was asked.
func tiocsti(request uintptr) error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	c := byte('x')
	return call(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&c)))
}

// ptrace works, for debuggers.
func ptrace() error {
	p, err := os.StartProcess("/bin/inside", []string{"inside"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	_ = p.Kill()
	return err
}

func write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("1")
	return err
}

// replace writes a file of the root, which reaches a copy of the sandbox's own.
func replace(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("changed"), 0)
	return err
}

var errShown = errors.New("shows something")

// empty proves that a path shows nothing, in whatever way.
func empty(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if names, err := f.Readdirnames(-1); err == nil && len(names) > 0 {
		return errShown
	}
	if n, _ := f.Read(make([]byte, 1)); n > 0 {
		return errShown
	}
	return nil
}

// eat takes memory until it is killed.
func eat() error {
	var all [][]byte
	for range 1024 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	_ = all[0]
	return nil
}

// fork makes processes until it may not.
func fork() error {
	for range 4096 {
		pid, _, no := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if no != 0 {
			return no
		}
		if pid == 0 {
			syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return nil
}

func bindPort() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	time.Sleep(time.Millisecond)
	return unix.Bind(fd, &unix.SockaddrInet4{Port: 80})
}
