package namespace

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
	"github.com/sandlot-dev/sandlot/internal/agentclient"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/driver/drivertest"
)

// The programs of the root these tests use: tries what is forbidden, and looks.
const (
	insideProgram = "github.com/sandlot-dev/sandlot/internal/driver/namespace/testdata/inside"
	lookProgram   = "github.com/sandlot-dev/sandlot/internal/driver/namespace/testdata/look"
)

// box is a started sandbox whose processes run as its root.
type box struct {
	*testing.T
	instance driver.Instance
	spec     driver.Spec
	client   *agentclient.Client
	proc     processconnect.ProcessClient
}

// startBox starts a sandbox; change may alter its spec.
func startBox(t *testing.T, change func(*driver.Spec)) *box {
	t.Helper()
	p := newPlace(t)
	b := &box{T: t, spec: drivertest.Spec(t, drivertest.RootLayer(t, insideProgram, lookProgram))}
	if change != nil {
		change(&b.spec)
	}
	i, err := p.driver(t).Create(t.Context(), b.spec)
	if err != nil {
		t.Fatal(err)
	}
	b.instance = i
	b.client = agentclient.New(func(ctx context.Context) (net.Conn, error) { return i.Dial(ctx) })
	t.Cleanup(func() {
		b.client.Close()
		if err := i.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := i.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.client.Init(t.Context(), agentclient.Init{DefaultUser: "root"}); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return i.Dial(ctx) }}
	t.Cleanup(transport.CloseIdleConnections)
	b.proc = processconnect.NewProcessClient(&http.Client{Transport: transport}, "http://agent", connect.WithProtoJSON())
	return b
}

// run runs a program inside and returns what it printed and how it ended.
func (b *box) run(argv ...string) (string, string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	stream, err := b.proc.Start(ctx, connect.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: argv[0], Args: argv[1:]}}))
	if err != nil {
		b.Fatal(err)
	}
	defer stream.Close()
	var out strings.Builder
	status := ""
	for stream.Receive() {
		event := stream.Msg().GetEvent()
		out.Write(event.GetData().GetStdout())
		out.Write(event.GetData().GetStderr())
		if end := event.GetEnd(); end != nil {
			status = end.GetStatus()
		}
	}
	return out.String(), status
}

// see returns what the program look says of a subject.
func (b *box) see(words ...string) string {
	b.Helper()
	out, status := b.run(append([]string{"/bin/look"}, words...)...)
	if status != "exit status 0" {
		b.Errorf("look %q: %s: %s", words, status, out)
	}
	return strings.TrimSpace(out)
}

// try returns how the attempts of the program inside went.
func (b *box) try(names ...string) map[string]string {
	b.Helper()
	out, status := b.run(append([]string{"/bin/inside"}, names...)...)
	got := map[string]string{}
	for line := range strings.Lines(out) {
		if name, outcome, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			got[name] = outcome
		}
	}
	if status != "exit status 0" {
		b.Logf("inside %q: %s: %s", names, status, out)
	}
	return got
}

// What a sandbox's root must not be able to do, and what it must.
func TestForbiddenAndAllowed(t *testing.T) {
	b := startBox(t, nil)
	for name, want := range map[string]string{
		"clone": "ok", "ptrace": "ok", "socket-inet": "ok", "socket-netlink": "ok", "mkfifo": "ok", "bind-port": "ok",

		"clone-newuser": "EPERM", "clone-newns": "EPERM", "clone-newnet": "EPERM", "clone-newpid-high": "EPERM",
		"clone3": "ENOSYS", "unshare-user": "EPERM", "unshare-mount": "EPERM", "setns": "EPERM",
		"mount": "EPERM", "umount": "EPERM", "fsopen": "EPERM", "open-tree": "EPERM", "pivot-root": "EPERM",
		"bpf": "EPERM", "keyctl": "EPERM", "add-key": "EPERM", "io-uring": "EPERM", "userfaultfd": "EPERM",
		"perf": "EPERM", "init-module": "EPERM", "kexec": "EPERM", "reboot": "EPERM", "settimeofday": "EPERM",
		"syslog": "EPERM", "open-by-handle": "EPERM", "quotactl": "EPERM", "swapon": "EPERM",
		"unknown-call": "ENOSYS", "x32-getpid": "ENOSYS",
		"tiocsti": "EPERM", "tiocsti-high": "EPERM", "tiocsti-signed": "EPERM", "tioclinux": "EPERM",
		"socket-packet": "EAFNOSUPPORT", "socket-netfilter": "EAFNOSUPPORT", "socket-vsock": "EAFNOSUPPORT", "socket-alg": "EAFNOSUPPORT",
		"mknod": "EPERM", "mknod-kmsg": "EPERM",
		"write-agent": "ETXTBSY",
		"read-kcore":  "ok", "read-keys": "ok", "read-timers": "ok", "read-firmware": "ok",
		"oom-score": "EACCES",
	} {
		if got := b.try(name)[name]; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Nothing of the kernel's own files can be written; the ones this kernel lacks
// prove nothing.
func TestKernelFilesAreReadOnly(t *testing.T) {
	b := startBox(t, nil)
	for _, name := range []string{"write-sysctl", "write-net-sysctl", "write-sysrq", "write-sys", "write-uevent"} {
		switch got := b.try(name)[name]; got {
		case "EROFS", "EACCES", "EPERM", "ENOENT":
		default:
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestNamespaces(t *testing.T) {
	b := startBox(t, nil)
	for _, ns := range []string{"user", "mnt", "pid", "net", "uts", "ipc", "cgroup"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.see("link", "/proc/self/ns/"+ns); got == host {
			t.Errorf("the sandbox is in the host's %s namespace", ns)
		}
	}
	want := fmt.Sprintf("0 %d %d", b.spec.UIDBase, driver.UIDRange)
	for _, file := range []string{"uid_map", "gid_map"} {
		if got := strings.Join(strings.Fields(b.see("file", "/proc/self/"+file)), " "); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}
	if got := b.see("host"); got != "sandbox" {
		t.Errorf("the host's name is %q", got)
	}
	for line := range strings.Lines(b.see("file", "/proc/self/cgroup")) {
		if !strings.HasSuffix(strings.TrimSpace(line), ":/") && !strings.Contains(line, ":/../") {
			continue
		}
		if strings.Contains(line, string(b.spec.ID)) || strings.Contains(line, "sandlot") {
			t.Errorf("the cgroup shows %q", line)
		}
	}
	if got := b.see("list", "/proc"); strings.Contains(" "+strings.ReplaceAll(got, "\n", " ")+" ", " "+strconv.Itoa(os.Getpid())+" ") && os.Getpid() > 100 {
		t.Errorf("the test's own process is visible: %s", got)
	}
}

// Nothing inside tells where on the host it lies.
func TestMountsShowNoHostPath(t *testing.T) {
	b := startBox(t, nil)
	info := b.see("file", "/proc/self/mountinfo")
	for _, secret := range []string{"/var/tmp", "/tmp/", "sandlot-run", "sandlot-upper", string(b.spec.ID), t.Name()} {
		if strings.Contains(info, secret) {
			t.Errorf("mountinfo shows %q:\n%s", secret, info)
		}
	}
	for line := range strings.Lines(info) {
		if f := strings.Fields(line); len(f) > 4 && !strings.HasPrefix(f[4], "/") {
			t.Errorf("a mount outside the root: %s", line)
		}
	}
}

func TestCapabilities(t *testing.T) {
	b := startBox(t, nil)
	for _, pid := range []string{"self", "1"} {
		status := b.see("file", "/proc/"+pid+"/status")
		for _, set := range []string{"CapBnd", "CapPrm", "CapEff"} {
			if got := field(status, set); got != fmt.Sprintf("%016x", capabilities) {
				t.Errorf("%s of %s is %s, want %016x", set, pid, got, capabilities)
			}
		}
		for name, want := range map[string]string{"CapAmb": "0000000000000000", "Seccomp": "2", "NoNewPrivs": "0"} {
			if got := field(status, name); got != want {
				t.Errorf("%s of %s is %q, want %q", name, pid, got, want)
			}
		}
	}
}

func field(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// The agent has nothing open that is not the sandbox's, nor do its children,
// even if the server was started with a directory of the host's open.
func TestNoInheritedDescriptors(t *testing.T) {
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0) // and not close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b := startBox(t, nil)
	for line := range strings.Lines(b.see("links", "/proc/1/fd")) {
		name, target, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch kind, _, _ := strings.Cut(target, ":"); {
		case kind == "socket", target == "/dev/null", strings.HasPrefix(target, "anon_inode:[event"), kind == "pipe",
			target == "anon_inode:[pidfd]", kind == "pidfd":
		default:
			t.Errorf("the agent has %s open at %s", target, name)
		}
	}
	for line := range strings.Lines(b.see("links", "/proc/self/fd")) {
		name, target, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(name)
		if err != nil || (n > 2 && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "anon_inode:")) {
			t.Errorf("a process has %s open at %s", target, name)
		}
	}
	if env := b.see("env", "1"); strings.Contains(env, "SANDLOT") || strings.Contains(env, os.Getenv("HOME")+"/go") {
		t.Errorf("the agent's environment is %q", env)
	}
}

// What is written over the agent's file is the sandbox's own copy.
func TestAgentFileIsACopy(t *testing.T) {
	p := newPlace(t)
	path := p.agent + "/" + drivertest.AgentPath
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b := startBox(t, nil)
	t.Log(b.try("write-agent-file")["write-agent-file"])
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("the host's agent was changed: %v", err)
	}
	if err := b.client.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMemoryLimit(t *testing.T) {
	b := startBox(t, func(s *driver.Spec) { s.Limits.MemoryBytes = 128 << 20 })
	if out, status := b.run("/bin/inside", "eat"); !strings.Contains(status, "killed") {
		t.Errorf("a process that eats 1 GiB of 128 MiB ended with %q: %s", status, out)
	}
	if err := b.client.Ping(t.Context()); err != nil {
		t.Errorf("the agent died with it: %v", err)
	}
}

func TestTaskLimit(t *testing.T) {
	b := startBox(t, func(s *driver.Spec) { s.Limits.PIDs = 64 })
	if got := b.try("fork")["fork"]; got != "EAGAIN" {
		t.Errorf("too many forks end with %q", got)
	}
	n, err := b.instance.(driver.TaskCounter).Tasks(t.Context())
	if err != nil || n > 64 {
		t.Errorf("%d tasks: %v", n, err)
	}
	// The agent itself may be short of tasks now, but the host's means work.
	if err := b.instance.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}
