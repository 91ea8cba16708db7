// Package driver is the contract between Sandlot and what isolates a sandbox.
// It owns the Driver and Instance interfaces and their vocabulary; the
// implementations live beside it (namespace, fake) or wrap others (fault), and
// all of them pass the suite in drivertest. Only node and the composition root
// import implementations.
package driver

import (
	"context"
	"net"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Driver makes sandboxes on this host. It is safe for concurrent use.
type Driver interface {
	// Name is the driver's name in configuration, e.g. "namespace".
	Name() string
	// Probe tries what the driver needs of this host. It returns an error only
	// when the driver cannot work at all; the message says what is missing.
	Probe(ctx context.Context) (Caps, error)
	// Create makes the sandbox's namespaces, mounts and cgroups and its first
	// process, which waits: nothing of the sandbox runs before Start. On error
	// nothing is left behind.
	Create(ctx context.Context, spec Spec) (Instance, error)
	// Recover finds a sandbox again that an earlier process of the server made.
	// It returns ErrGone when it no longer runs; what it may have left behind is
	// then removed by Sweep.
	Recover(ctx context.Context, state State) (Instance, error)
	// Sweep removes everything this driver made on the host that belongs to
	// none of the sandboxes in keep, and returns what it removed, in words.
	Sweep(ctx context.Context, keep []State) ([]string, error)
}

// Instance is one sandbox. Its methods are safe for concurrent use.
type Instance interface {
	// Start lets the first process go on and returns when the agent inside
	// accepts connections. It may be called once.
	Start(ctx context.Context) error
	// Wait blocks until the sandbox's first process has ended.
	Wait(ctx context.Context) (Exit, error)
	// Signal sends sig to the sandbox's first process.
	Signal(ctx context.Context, sig sandbox.Signal) error
	// Stats returns what the sandbox uses now.
	Stats(ctx context.Context) (Stats, error)
	// Dial connects to the agent inside. The caller closes the connection.
	Dial(ctx context.Context) (net.Conn, error)
	// State returns what Recover needs. PID is set from Create on.
	State() State
	// Destroy ends every process of the sandbox and frees everything the driver
	// holds for it. It is idempotent and works on half-made instances.
	Destroy(ctx context.Context) error
}

// Pauser is the optional power of an Instance to stop its processes in place.
// Reach it with As.
type Pauser interface {
	Freeze(ctx context.Context) error
	Thaw(ctx context.Context) error
}

// TaskCounter is the optional power of an Instance to count its tasks, processes
// and threads. It is apart from Stats, which is asked of every sandbox every few
// seconds and reads no more than that needs. Reach it with As.
type TaskCounter interface {
	Tasks(ctx context.Context) (int64, error)
}

// Unwrapper is implemented by decorators, so that As finds what they wrap.
type Unwrapper interface{ Unwrap() Instance }

// As returns the first instance in i's chain of decorators that has power T.
func As[T any](i Instance) (T, bool) {
	for i != nil {
		if t, ok := i.(T); ok {
			return t, true
		}
		u, ok := i.(Unwrapper)
		if !ok {
			break
		}
		i = u.Unwrap()
	}
	var zero T
	return zero, false
}

// Spec is what a sandbox is made from.
type Spec struct {
	ID sandbox.ID
	// Layers are read-only directories on the host, the topmost first. Files
	// carry the ids they have inside (0-based); the driver maps them.
	Layers []string
	// Upper and Work are empty or earlier used directories of one file system
	// for the sandbox's own changes. The caller owns them.
	Upper, Work string
	// UIDBase is the first of the 65,536 host user and group ids that are the
	// sandbox's own while it lives.
	UIDBase uint32
	// Hostname is what the sandbox calls itself.
	Hostname string
	Limits   sandbox.Limits
}

// State identifies a sandbox across restarts of the server. It is stored as JSON.
type State struct {
	ID sandbox.ID `json:"id"`
	// PID is the host's id of the sandbox's first process; StartTime (clock
	// ticks since boot, field 22 of /proc/PID/stat) tells it from a later one
	// with the same number.
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
	UIDBase   uint32 `json:"uid_base"`
}

// Exit says how a sandbox ended.
type Exit struct {
	// Code is the exit status of its first process, -1 if unknown.
	Code int
	At   time.Time
}

// Stats is what a sandbox uses.
type Stats struct {
	// CPUTime is the processor time used since the start.
	CPUTime time.Duration
	// MemoryBytes is the memory charged, CacheBytes the part of it that caches
	// files, which the kernel takes back when something else needs it.
	MemoryBytes, CacheBytes int64
}

// Caps says what a driver can do on this host.
type Caps struct {
	// Features holds one entry per feature tried.
	Features []Feature
}

// Feature is one thing a host has or lacks.
type Feature struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Detail says what was found, Cost what its absence means, and Fix how to
	// get it. Cost and Fix are empty when OK.
	Detail string `json:"detail,omitempty"`
	Cost   string `json:"cost,omitempty"`
	Fix    string `json:"fix,omitempty"`
	// Required features make the driver unusable when missing.
	Required bool `json:"required,omitempty"`
}

// UIDRange is how many host ids a sandbox has.
const UIDRange = 65536

// Validate reports what is wrong with s as an errs.Invalid error.
func (s Spec) Validate() error {
	switch {
	case !s.ID.Valid():
		return errs.New(errs.Invalid, "sandbox id %q is malformed", string(s.ID))
	case len(s.Layers) == 0:
		return errs.New(errs.Invalid, "sandbox %s has no root file system layer", s.ID)
	case s.Upper == "" || s.Work == "":
		return errs.New(errs.Invalid, "sandbox %s has no directory for its own files", s.ID)
	case s.UIDBase == 0 || s.UIDBase%UIDRange != 0:
		return errs.New(errs.Invalid, "uid base %d is no positive multiple of %d", s.UIDBase, UIDRange)
	}
	return s.Limits.Validate()
}
