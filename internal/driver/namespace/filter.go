package namespace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// filter assembles a seccomp filter (seccomp(2)) of classic BPF. While it looks
// for the call, the accumulator holds the call's number; only the code of a
// call that has been found loads arguments, and that code always ends with a
// verdict. So no argument is ever taken for a number.
type filter struct {
	info *arch.Info
	code []bpf.Instruction
}

// Offsets in struct seccomp_data.
const (
	numberOffset = 0
	archOffset   = 4
	argsOffset   = 16
)

// Verdicts.
var (
	allowed = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	denied  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	unknown = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
)

// newFilter begins a filter that knows no call of other architectures, whose
// numbers mean something else: 32-bit x86 by its identifier, x32 by a bit in
// the number.
func newFilter(info *arch.Info) *filter {
	f := &filter{info: info}
	f.add(bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1}, unknown,
		bpf.LoadAbsolute{Off: numberOffset, Size: 4})
	if info.ID == arch.X86_64.ID {
		f.add(bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(arch.X32.SeccompMask), SkipTrue: 1}, unknown)
	}
	return f
}

func (f *filter) add(i ...bpf.Instruction) { f.code = append(f.code, i...) }

// allow and deny decide on calls by their names; those this architecture does
// not have are left out.
func (f *filter) allow(names []string) { f.decide(names, allowed) }
func (f *filter) deny(names []string)  { f.decide(names, denied) }

func (f *filter) decide(names []string, verdict bpf.Instruction) {
	for _, r := range f.ranges(names) {
		f.add(bpf.JumpIf{Cond: bpf.JumpLessThan, Val: r[0], SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: r[1], SkipTrue: 1}, verdict)
	}
}

// ranges returns the numbers of calls as ranges, which are far fewer.
func (f *filter) ranges(names []string) [][2]uint32 {
	var numbers []uint32
	for _, name := range names {
		if n, ok := f.info.SyscallNames[name]; ok {
			numbers = append(numbers, uint32(n))
		}
	}
	slices.Sort(numbers)
	var out [][2]uint32
	for _, n := range numbers {
		if last := len(out) - 1; last >= 0 && n <= out[last][1]+1 {
			out[last][1] = n
			continue
		}
		out = append(out, [2]uint32{n, n})
	}
	return out
}

// operation compares an argument with a value, as unsigned 64-bit numbers.
type operation int

const (
	equal operation = iota
	notEqual
	bitsNotSet // of the value's bits
	atLeast
)

// check is a condition on one argument.
type check struct {
	arg   uint32
	op    operation
	value uint64
}

// allowIf allows a call if all checks of any set hold.
func (f *filter) allowIf(name string, sets [][]check) error {
	n, ok := f.info.SyscallNames[name]
	if !ok {
		return nil
	}
	var body []bpf.Instruction
	for _, set := range sets {
		tail := []bpf.Instruction{allowed}
		for _, c := range slices.Backward(set) {
			tail = append(c.code(uint8(len(tail))), tail...)
		}
		body = append(body, tail...)
	}
	body = append(body, refusal(name))
	if len(body) > math.MaxUint8 {
		return fmt.Errorf("the conditions of %s are too long to jump over", name)
	}
	f.add(bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(n), SkipTrue: uint8(len(body))})
	f.add(body...)
	return nil
}

// refusal is the answer to a call whose conditions do not hold: for a socket
// that of a kernel without the address family. EPERM would make sudo, which asks
// for the audit system, take it for one that is there and refuses.
func refusal(name string) bpf.RetConstant {
	if name == "socket" || name == "socketpair" {
		return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)}
	}
	return denied
}

// code goes on behind itself if the check holds, and otherwise behind the rest
// instructions that follow it.
func (c check) code(rest uint8) []bpf.Instruction {
	low, high := uint32(c.value), uint32(c.value>>32)
	offset := argsOffset + 8*c.arg
	loadLow := bpf.LoadAbsolute{Off: offset, Size: 4} // little-endian, as all we run on
	loadHigh := bpf.LoadAbsolute{Off: offset + 4, Size: 4}
	jump := func(cond bpf.JumpTest, value uint32, skip uint8) bpf.Instruction {
		return bpf.JumpIf{Cond: cond, Val: value, SkipTrue: skip}
	}
	switch c.op {
	case equal:
		return []bpf.Instruction{loadHigh, jump(bpf.JumpNotEqual, high, rest+2), loadLow, jump(bpf.JumpNotEqual, low, rest)}
	case notEqual:
		return []bpf.Instruction{loadHigh, jump(bpf.JumpNotEqual, high, 2), loadLow, jump(bpf.JumpEqual, low, rest)}
	case bitsNotSet:
		return []bpf.Instruction{loadHigh, jump(bpf.JumpBitsSet, high, rest+2), loadLow, jump(bpf.JumpBitsSet, low, rest)}
	default: // atLeast
		return []bpf.Instruction{
			loadHigh, jump(bpf.JumpGreaterThan, high, 3), jump(bpf.JumpNotEqual, high, rest+2),
			loadLow, jump(bpf.JumpLessThan, low, rest),
		}
	}
}

// finish returns the filter as struct sock_filter records.
func (f *filter) finish() ([]byte, error) {
	f.add(unknown)
	raw, err := bpf.Assemble(f.code)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = binary.Write(&out, binary.NativeEndian, raw)
	return out.Bytes(), err
}
