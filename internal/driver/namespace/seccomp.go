package namespace

import (
	"maps"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// namespaceFlags are the clone(2) flags that make namespaces. A sandbox may not
// nest user namespaces: inside one its root would hold every capability again,
// and with them most of the kernel's attack surface.
const namespaceFlags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

// deniedSyscalls answer EPERM, as a kernel answers somebody without the
// privilege. Whatever is on no list answers ENOSYS, so that C libraries fall
// back to older calls: also clone3, whose flags lie behind a pointer and cannot
// be checked.
var deniedSyscalls = []string{
	"acct", "add_key", "bpf", "clock_adjtime", "clock_settime", "create_module", "delete_module",
	"finit_module", "get_kernel_syms", "init_module", "io_uring_enter", "io_uring_register", "io_uring_setup",
	"ioperm", "iopl", "kexec_file_load", "kexec_load", "keyctl", "lookup_dcookie", "mount",
	"mount_setattr", "move_mount", "move_pages", "name_to_handle_at", "nfsservctl", "open_by_handle_at",
	"open_tree", "perf_event_open", "pivot_root", "process_madvise", "query_module", "quotactl", "quotactl_fd", "reboot",
	"request_key", "setns", "settimeofday", "swapoff", "swapon", "syslog", "umount2", "unshare",
	"userfaultfd", "uselib", "ustat", "vhangup", "fsopen", "fsconfig", "fsmount", "fspick", "vm86", "vm86old",
}

// allowedSyscalls may be made with any argument. Message queues (mq_*) and
// kernel asynchronous I/O (io_setup …) are not among them: their limits are the
// whole host's, so one sandbox could take them from all others. Programs that
// use them do without where a kernel has none.
var allowedSyscalls = []string{
	"accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat", "capget", "capset",
	"chdir", "chmod", "chown", "chroot", "clock_getres", "clock_gettime", "clock_nanosleep", "close", "close_range",
	"connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl",
	"epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve",
	"execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fallocate", "fanotify_mark", "fchdir", "fchmod",
	"fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork",
	"fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate", "futex", "futex_requeue", "futex_wait",
	"futex_waitv", "futex_wake", "futimesat", "get_mempolicy", "get_robust_list", "get_thread_area", "getcpu", "getcwd",
	"getdents", "getdents64", "getegid", "geteuid", "getgid", "getgroups", "getitimer", "getpeername", "getpgid",
	"getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage",
	"getsid", "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getxattr", "inotify_add_watch",
	"inotify_init", "inotify_init1", "inotify_rm_watch",
	"ioprio_get", "ioprio_set", "kcmp", "kill", "landlock_add_rule",
	"landlock_create_ruleset", "landlock_restrict_self", "lchown", "lgetxattr", "link", "linkat", "listen",
	"listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek", "lsetxattr", "lstat", "madvise", "map_shadow_stack", "mbind", "membarrier",
	"memfd_create", "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall",
	"mmap", "modify_ldt", "mprotect",
	"mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap",
	"nanosleep", "newfstatat", "open", "openat", "openat2", "pause", "pidfd_getfd", "pidfd_open", "pidfd_send_signal",
	"pipe", "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll", "prctl", "pread64", "preadv",
	"preadv2", "prlimit64", "process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6", "ptrace", "pwrite64", "pwritev",
	"pwritev2", "read", "readahead", "readlink", "readlinkat", "readv", "recvfrom", "recvmmsg", "recvmsg",
	"remap_file_pages", "removexattr", "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq",
	"rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
	"rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
	"sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity",
	"sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget",
	"semop", "semtimedop", "sendfile", "sendmmsg", "sendmsg", "sendto", "set_mempolicy", "set_mempolicy_home_node",
	"set_robust_list", "set_thread_area", "set_tid_address", "setdomainname", "setfsgid", "setfsuid", "setgid",
	"setgroups", "sethostname", "setitimer", "setpgid", "setpriority", "setregid", "setresgid", "setresuid", "setreuid",
	"setrlimit", "setsid", "setsockopt", "setuid", "setxattr", "shmat", "shmctl", "shmdt", "shmget", "shutdown",
	"sigaltstack", "signalfd", "signalfd4", "splice", "stat", "statfs", "statx", "symlink", "symlinkat",
	"sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
	"timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime",
	"times", "tkill", "truncate", "umask", "uname", "unlink", "unlinkat", "utime", "utimensat", "utimes", "vfork",
	"vmsplice", "wait4", "waitid", "write", "writev",
}

// conditionalSyscalls are allowed if all checks of one of their sets hold, and
// answer EPERM otherwise.
var conditionalSyscalls = map[string][][]check{
	"clone": {{{arg: 0, op: bitsNotSet, value: namespaceFlags}}},
	// TIOCSTI and TIOCLINUX type into somebody else's terminal. The kernel
	// reads 32 bits of the request, the filter compares 64: the upper half
	// must be zero, or ones where musl extends the sign of a request whose
	// upper bit is set (neither of the two has it).
	"ioctl": {
		{
			{arg: 1, op: bitsNotSet, value: 0xffffffff_00000000},
			{arg: 1, op: notEqual, value: unix.TIOCSTI},
			{arg: 1, op: notEqual, value: unix.TIOCLINUX},
		},
		{{arg: 1, op: atLeast, value: 0xffffffff_80000000}},
	},
	"personality": anyOf(0, 0x0008, 0x20000, 0x20008, 0xffffffff, 0x0040000),
	"socketpair":  anyOf(unix.AF_UNIX),
	// Of netlink only what libraries need to read interfaces and routes.
	"socket": append(anyOf(unix.AF_UNIX, unix.AF_INET, unix.AF_INET6),
		[]check{{arg: 0, op: equal, value: unix.AF_NETLINK}, {arg: 2, op: equal, value: unix.NETLINK_ROUTE}}),
}

// anyOf allows a call whose first argument is one of values.
func anyOf(values ...uint64) [][]check {
	sets := make([][]check, 0, len(values))
	for _, v := range values {
		sets = append(sets, []check{{arg: 0, op: equal, value: v}})
	}
	return sets
}

// compileSeccomp builds the filter every sandbox gets, as struct sock_filter
// records. It is done once: assembling takes longer than starting a sandbox may.
func compileSeccomp() ([]byte, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	f := newFilter(info)
	f.allow(allowedSyscalls)
	for _, name := range slices.Sorted(maps.Keys(conditionalSyscalls)) {
		if err := f.allowIf(name, conditionalSyscalls[name]); err != nil {
			return nil, err
		}
	}
	f.deny(deniedSyscalls)
	return f.finish()
}

// capabilities is the bounding set of every process in a sandbox: what files,
// users, ports and debugging need, nothing that reaches the kernel's
// administration (no CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_SYS_MODULE …).
var capabilities = capabilityMask(
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
	unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP, unix.CAP_SETFCAP, unix.CAP_NET_BIND_SERVICE,
	unix.CAP_NET_RAW, unix.CAP_SYS_CHROOT, unix.CAP_SYS_PTRACE, unix.CAP_SYS_NICE, unix.CAP_IPC_LOCK,
	unix.CAP_IPC_OWNER, unix.CAP_LEASE, unix.CAP_AUDIT_WRITE, unix.CAP_MKNOD,
)

func capabilityMask(caps ...int) uint64 {
	var m uint64
	for _, c := range caps {
		m |= 1 << c
	}
	return m
}
