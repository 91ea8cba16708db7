package namespace

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// machine interprets the filter as the kernel does, from its bytes: reading
// every instruction again also proves how they are laid out. (The interpreter
// of package bpf reads numbers in network order, the kernel in its own.)
type machine []bpf.Instruction

func load(t testing.TB) machine {
	t.Helper()
	data, err := compileSeccomp()
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]bpf.RawInstruction, len(data)/8)
	for i := range raw {
		d := data[8*i:]
		raw[i] = bpf.RawInstruction{Op: binary.NativeEndian.Uint16(d), Jt: d[2], Jf: d[3], K: binary.NativeEndian.Uint32(d[4:])}
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter has instructions that cannot be read")
	}
	return code
}

// run returns the verdict on a call.
func (m machine) run(t testing.TB, archID, nr uint32, args ...uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.NativeEndian.PutUint32(data[numberOffset:], nr)
	binary.NativeEndian.PutUint32(data[archOffset:], archID)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[argsOffset+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(m); pc++ {
		switch i := m[pc].(type) {
		case bpf.LoadAbsolute:
			acc = binary.NativeEndian.Uint32(data[i.Off:])
		case bpf.RetConstant:
			return i.Val
		case bpf.JumpIf:
			if holds(i.Cond, acc, i.Val) {
				pc += int(i.SkipTrue)
			} else {
				pc += int(i.SkipFalse)
			}
		default:
			t.Fatalf("unexpected instruction %v", i)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func holds(cond bpf.JumpTest, a, b uint32) bool {
	switch cond {
	case bpf.JumpEqual:
		return a == b
	case bpf.JumpNotEqual:
		return a != b
	case bpf.JumpGreaterThan:
		return a > b
	case bpf.JumpLessThan:
		return a < b
	case bpf.JumpGreaterOrEqual:
		return a >= b
	case bpf.JumpLessOrEqual:
		return a <= b
	case bpf.JumpBitsSet:
		return a&b != 0
	default:
		return a&b == 0
	}
}

// Every call of this architecture gets the verdict of the list it is on,
// whatever its arguments are, unless they matter.
func TestFilterVerdicts(t *testing.T) {
	m := load(t)
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	for name, nr := range info.SyscallNames {
		want := unknown.Val
		switch {
		case slices.Contains(allowedSyscalls, name):
			want = allowed.Val
		case slices.Contains(deniedSyscalls, name):
			want = denied.Val
		}
		if _, ok := conditionalSyscalls[name]; ok {
			continue
		}
		for _, arg := range []uint64{0, 16, 41, 135, 1 << 63, ^uint64(0)} {
			if got := m.run(t, uint32(info.ID), uint32(nr), arg, arg, arg, arg, arg, arg); got != want {
				t.Errorf("%s(%#x …): %#x, want %#x", name, arg, got, want)
			}
		}
		if got := m.run(t, 1, uint32(nr)); got != unknown.Val {
			t.Errorf("%s of another architecture: %#x", name, got)
		}
	}
}

// Arguments that are also numbers of other calls must not be taken for them.
func TestFilterConditions(t *testing.T) {
	m := load(t)
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	const high = 1 << 32
	for _, c := range []struct {
		name string
		args []uint64
		want bool
	}{
		{"clone", []uint64{uint64(unix.SIGCHLD)}, true},
		{"clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}, true},
		{"clone", []uint64{unix.CLONE_NEWUSER}, false},
		{"clone", []uint64{high | unix.CLONE_NEWNS}, false},
		{"ioctl", []uint64{0, unix.TCGETS}, true},
		{"ioctl", []uint64{0, 0x80045430}, true},
		{"ioctl", []uint64{0, 0xffffffff_80045430}, true}, // with its sign extended
		{"ioctl", []uint64{0, unix.TIOCSTI}, false},
		{"ioctl", []uint64{0, unix.TIOCLINUX}, false},
		{"ioctl", []uint64{0, high | unix.TIOCSTI}, false},
		{"ioctl", []uint64{0, 135<<32 | unix.TIOCSTI}, false}, // 135 is personality
		{"ioctl", []uint64{8, 41<<32 | unix.TIOCSTI}, false},  // 41 is socket
		{"ioctl", []uint64{0, 0xffffffff<<32 | unix.TIOCSTI}, false},
		{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, 0}, true},
		{"socket", []uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, true},
		{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, true},
		{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, false}, // 16 is ioctl
		{"socket", []uint64{high | unix.AF_INET, unix.SOCK_STREAM, 0}, false},
		{"socket", []uint64{unix.AF_PACKET, unix.SOCK_RAW, 0}, false},
		{"socket", []uint64{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, false},
		{"socketpair", []uint64{unix.AF_UNIX, unix.SOCK_STREAM, 0}, true},
		{"socketpair", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, 0}, false},
		{"personality", []uint64{0}, true},
		{"personality", []uint64{0xffffffff}, true},
		{"personality", []uint64{0x0040000}, true},
		{"personality", []uint64{0x0400000}, false},
		{"personality", []uint64{unix.SYS_READ}, true}, // 0 again
	} {
		want := refusal(c.name)
		if c.want {
			want = allowed
		}
		if got := m.run(t, uint32(info.ID), uint32(info.SyscallNames[c.name]), c.args...); got != want.Val {
			t.Errorf("%s(%#x): %#x, want %#x", c.name, c.args, got, want.Val)
		}
	}
}

// No call is on two lists.
func TestFilterLists(t *testing.T) {
	seen := map[string]bool{}
	names := slices.Concat(allowedSyscalls, deniedSyscalls)
	for name := range conditionalSyscalls {
		names = append(names, name)
	}
	for _, name := range names {
		if seen[name] {
			t.Errorf("%s is listed twice", name)
		}
		seen[name] = true
	}
}
