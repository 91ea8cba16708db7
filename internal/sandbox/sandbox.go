// Package sandbox is the vocabulary every layer shares: identifiers, states and
// their transitions, limits. It owns no behaviour with side effects and imports
// only the standard library and errs. Anyone may import it.
package sandbox

import (
	"crypto/rand"
	"regexp"
	"slices"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// ID names a sandbox: 'i' and 19 lower-case letters or digits (98 bits of
// entropy). It never contains '-', so host names split unambiguously.
type ID string

var idPattern = regexp.MustCompile(`^i[a-z0-9]{19}$`)

// Valid reports whether id has the form NewID gives.
func (id ID) Valid() bool { return idPattern.MatchString(string(id)) }

// NewID returns a fresh random ID.
func NewID() ID { return ID("i" + randomText(19)) }

// randomText draws n characters of [a-z0-9] without modulo bias.
func randomText(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, 0, n)
	buf := make([]byte, 2*n)
	for len(out) < n {
		rand.Read(buf) // never fails: crypto/rand aborts the program instead
		for _, b := range buf {
			if int(b) < 252 && len(out) < n { // 252 = 7 × 36
				out = append(out, alphabet[int(b)%36])
			}
		}
	}
	return string(out)
}

// State is where a sandbox is in its life.
type State string

// The states. E2B's wire format knows only running and paused.
const (
	Starting State = "starting"
	Running  State = "running"
	Paused   State = "paused"
	Stopping State = "stopping"
	Stopped  State = "stopped"
)

// transitions is the whole state machine: from each state, what may follow.
var transitions = map[State][]State{
	Starting: {Running, Stopping, Stopped},
	Running:  {Paused, Stopping, Stopped},
	Paused:   {Running, Stopping, Stopped},
	Stopping: {Stopped},
	Stopped:  {},
}

// States returns every state.
func States() []State { return []State{Starting, Running, Paused, Stopping, Stopped} }

// CanBecome reports whether the transition from s to next is allowed.
func (s State) CanBecome(next State) bool {
	return slices.Contains(transitions[s], next)
}

// Limits bound what a sandbox may use of the host. Zero means the default for
// every field but Swap, where zero means no swap.
type Limits struct {
	// CPUs is the number of virtual CPUs; the quota is CPUs × 100 ms per 100 ms.
	CPUs int `json:"cpus"`
	// CPUShares is the relative weight under contention (1024 = one default sandbox).
	CPUShares uint64 `json:"cpu_shares"`
	// MemoryBytes bounds memory and page cache.
	MemoryBytes int64 `json:"memory_bytes"`
	// SwapBytes bounds swap beyond MemoryBytes.
	SwapBytes int64 `json:"swap_bytes"`
	// PIDs bounds the number of tasks (processes and threads).
	PIDs int64 `json:"pids"`
	// DiskBytes bounds what the sandbox may write to its root file system.
	DiskBytes int64 `json:"disk_bytes"`
}

// DefaultLimits are those of a template that names none.
func DefaultLimits() Limits {
	return Limits{CPUs: 2, CPUShares: 1024, MemoryBytes: 1 << 30, PIDs: 1024, DiskBytes: 10 << 30}
}

// OrDefault fills the zero fields of l from DefaultLimits.
func (l Limits) OrDefault() Limits { return l.Or(DefaultLimits()) }

// Or fills the zero fields of l from d.
func (l Limits) Or(d Limits) Limits {
	if l.CPUs == 0 {
		l.CPUs = d.CPUs
	}
	if l.CPUShares == 0 {
		l.CPUShares = d.CPUShares
	}
	if l.MemoryBytes == 0 {
		l.MemoryBytes = d.MemoryBytes
	}
	if l.PIDs == 0 {
		l.PIDs = d.PIDs
	}
	if l.DiskBytes == 0 {
		l.DiskBytes = d.DiskBytes
	}
	if l.SwapBytes == 0 {
		l.SwapBytes = d.SwapBytes
	}
	return l
}

// The smallest limits a sandbox can start and answer with.
const (
	MinMemoryBytes = 16 << 20
	MinPIDs        = 16
	MinDiskBytes   = 16 << 20
)

// Validate reports a limit that is out of range as an errs.Invalid error.
func (l Limits) Validate() error {
	switch {
	case l.CPUs < 1 || l.CPUs > 1024:
		return errs.New(errs.Invalid, "cpus is %d; give a number from 1 to 1024", l.CPUs)
	case l.CPUShares < 2 || l.CPUShares > 262144:
		return errs.New(errs.Invalid, "cpu_shares is %d; give a number from 2 to 262144", l.CPUShares)
	case l.MemoryBytes < MinMemoryBytes:
		return errs.New(errs.Invalid, "memory is %d bytes; give at least %d (16M)", l.MemoryBytes, MinMemoryBytes)
	case l.SwapBytes < 0:
		return errs.New(errs.Invalid, "swap is %d bytes; give 0 or more", l.SwapBytes)
	case l.PIDs < MinPIDs:
		return errs.New(errs.Invalid, "pids is %d; give at least %d", l.PIDs, MinPIDs)
	case l.DiskBytes < MinDiskBytes:
		return errs.New(errs.Invalid, "disk is %d bytes; give at least %d (16M)", l.DiskBytes, MinDiskBytes)
	}
	return nil
}
