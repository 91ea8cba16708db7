package namespace

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
)

// hold starts an attempt that goes on until the test ends, and returns the
// first thing it says.
func (b *box) hold(name string) string {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	b.Cleanup(cancel)
	stream, err := b.proc.Start(ctx, connect.NewRequest(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/bin/inside", Args: []string{name}}}))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stream.Close() })
	var said strings.Builder
	for stream.Receive() {
		said.Write(stream.Msg().GetEvent().GetData().GetStdout())
		if line, _, ok := strings.Cut(said.String(), "\n"); ok {
			return line
		}
	}
	b.Fatalf("%s ended: %v", name, stream.Err())
	return ""
}

// What the kernel counts per user it counts per sandbox: one that takes all it
// can get leaves others as much as before.
func TestCountersAreTheSandboxsOwn(t *testing.T) {
	greedy, modest := startBox(t, nil), startBox(t, nil)
	for _, what := range []string{"inotify", "timers", "terminals"} {
		t.Run(what, func(t *testing.T) {
			t.Log(greedy.hold("take-" + what))
			if got := modest.try("some-" + what)["some-"+what]; got != "ok" {
				t.Errorf("beside a sandbox that took all, another gets %s", got)
			}
		})
	}
}

// The terminals of all sandboxes come out of one number, so each has a share.
func TestTerminalShare(t *testing.T) {
	b := startBox(t, nil)
	if got, want := b.hold("take-terminals"), "terminals 128 ENOSPC"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Many sandboxes hold several inotify instances each: together more than one
// user may have, which is 128 unless the host was told otherwise.
func TestManyInotifyInstances(t *testing.T) {
	limit, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		t.Fatal(err)
	}
	const each, sandboxes = 16, 9 // few, because each takes seconds where machines are emulated
	if got := strings.TrimSpace(string(limit)); got != "128" {
		t.Logf("this host allows a user %s instances; %d show less here", got, each*sandboxes)
	}
	for n := range sandboxes {
		if got := startBox(t, nil).hold("keep-inotify"); got != "inotify ok" {
			t.Fatalf("sandbox %d: %s", n+1, got)
		}
	}
}

// The owner of a sandbox's user namespace is its own first id: not root, and
// nobody who runs outside.
func TestUserNamespaceOwner(t *testing.T) {
	b := startBox(t, nil)
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", b.instance.State().PID))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var owner uint32
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.NS_GET_OWNER_UID, uintptr(unsafe.Pointer(&owner))); no != 0 {
		t.Fatal(no)
	}
	if owner != b.spec.UIDBase {
		t.Errorf("the owner is %d, want %d", owner, b.spec.UIDBase)
	}
}
