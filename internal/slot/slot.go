// Package slot hands out the numbers that must be unique on the whole host,
// also between servers with different data directories: a slot fixes a
// sandbox's range of user ids, the name of its network interface and its
// address on the host's side.
//
// Slots come in blocks of 256. A server claims a block when it needs one, by a
// file in a directory that a reboot empties (as it ends all sandboxes); the
// claim outlives the server, because its sandboxes do. It owns those files.
// Node and the composition root import it.
package slot

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// DefaultDir is where blocks are claimed on a host.
const DefaultDir = "/run/sandlot/blocks"

const (
	blockSize = 256
	blocks    = 32
	// firstUID begins the ranges: 8,192 of 65,536 ids, ending at 2^31, above
	// what distributions and container engines hand out from /etc/subuid.
	firstUID = 0x60000000
	uidRange = 65536
)

// Slot is one number, from 0 to 8191.
type Slot int

// UIDBase is the first of the slot's 65,536 user and group ids on the host.
func (s Slot) UIDBase() uint32 { return firstUID + uint32(s)*uidRange }

// Interface is the name of the host's end of the sandbox's network.
func (s Slot) Interface() string { return fmt.Sprintf("sl%d", int(s)) }

// FromInterface returns the slot whose interface has this name.
func FromInterface(name string) (Slot, bool) {
	digits, ok := strings.CutPrefix(name, "sl")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 0 || n >= blocks*blockSize || Slot(n).Interface() != name {
		return 0, false
	}
	return Slot(n), true
}

// Address is what the host calls the sandbox: 10.200.0.0 + slot.
func (s Slot) Address() netip.Addr {
	return netip.AddrFrom4([4]byte{10, 200, byte(s >> 8), byte(s)})
}

// Pool is the slots of one server. It is safe for concurrent use.
type Pool struct {
	dir, owner string
	busy       func(Slot) bool

	mu     sync.Mutex
	claims []int  // blocks claimed
	fresh  []Slot // never used by this process
	rested []Slot // used before, the longest unused first
	used   map[Slot]bool
}

// Open finds the blocks the owner (the path of its data directory) has claimed
// below dir. busy, if not nil, says that a free slot cannot be used yet because
// the kernel is still removing what its last user had.
func Open(dir, owner string, busy func(Slot) bool) (*Pool, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of blocks: %w", err)
	}
	p := &Pool{dir: dir, owner: owner, busy: busy, used: map[Slot]bool{}}
	for b := range blocks {
		if o, err := os.ReadFile(p.file(b)); err == nil && string(o) == owner {
			p.add(b)
		}
	}
	return p, nil
}

func (p *Pool) file(block int) string { return filepath.Join(p.dir, strconv.Itoa(block)) }

func (p *Pool) add(block int) {
	p.claims = append(p.claims, block)
	for i := range blockSize {
		if s := Slot(block*blockSize + i); !p.used[s] {
			p.fresh = append(p.fresh, s)
		}
	}
}

// Acquire returns a slot nobody uses. It fails with errs.Exhausted when the
// host has none left.
func (p *Pool) Acquire() (Slot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if s, ok := p.pop(); ok {
			p.used[s] = true
			return s, nil
		}
		if err := p.claim(); err != nil {
			return 0, err
		}
	}
}

// rest is how many slots lie unused before one is used again. Connections of
// the last user may still be remembered under its address; on the other hand a
// slot used before is quicker to use, since the driver knows its id range.
const rest = 64

// pop takes a slot that rested long enough, or else a fresh one, or else the
// one that rested longest.
func (p *Pool) pop() (Slot, bool) {
	first, second := &p.fresh, &p.rested
	if len(p.rested) > rest {
		first, second = second, first
	}
	if s, ok := p.take(first); ok {
		return s, true
	}
	return p.take(second)
}

// take removes the first slot of a list that is not busy.
func (p *Pool) take(list *[]Slot) (Slot, bool) {
	for i, s := range *list {
		if p.busy != nil && p.busy(s) {
			continue
		}
		*list = slices.Delete(*list, i, i+1)
		return s, true
	}
	return 0, false
}

// Reserve marks a slot as used that a living sandbox holds since before a
// restart.
func (p *Pool) Reserve(s Slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used[s] = true
	for _, list := range []*[]Slot{&p.fresh, &p.rested} {
		*list = slices.DeleteFunc(*list, func(f Slot) bool { return f == s })
	}
}

// Release gives a slot back.
func (p *Pool) Release(s Slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used[s] {
		delete(p.used, s)
		p.rested = append(p.rested, s)
	}
}

// Owns reports whether the slot lies in one of the server's blocks.
func (p *Pool) Owns(s Slot) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.claims, int(s)/blockSize)
}

// InUse reports whether the slot is acquired or reserved.
func (p *Pool) InUse(s Slot) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used[s]
}

// Forget gives up all blocks; for the end of a data directory.
func (p *Pool) Forget() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all error
	for _, b := range p.claims {
		all = errors.Join(all, os.Remove(p.file(b)))
	}
	p.claims, p.fresh, p.rested = nil, nil, nil
	return all
}

// claim takes one more block: a free one, or one whose owner's directory is
// gone.
func (p *Pool) claim() error {
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for b := range blocks {
		ok, err := p.tryClaim(b)
		if err != nil {
			return fmt.Errorf("claim block %d: %w", b, err)
		}
		if ok {
			p.add(b)
			return nil
		}
	}
	return errs.New(errs.Exhausted, "all %d sandbox slots of this host are in use", blocks*blockSize).
		WithHint("servers with other data directories may hold some; see %s", p.dir)
}

// lock keeps other servers from claiming at the same time: between finding a
// block abandoned and taking it over, nobody else may.
func (p *Pool) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(p.dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock blocks: %w", err)
	}
	return func() { f.Close() }, nil
}

// tryClaim links a complete file into place, so that no reader ever sees a
// claim without its owner.
func (p *Pool) tryClaim(block int) (bool, error) {
	tmp, err := os.CreateTemp(p.dir, ".claim-")
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(p.owner)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return false, err
	}
	err = os.Link(tmp.Name(), p.file(block))
	if errors.Is(err, fs.ErrExist) && p.abandoned(block) {
		err = os.Rename(tmp.Name(), p.file(block))
	}
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

func (p *Pool) abandoned(block int) bool {
	owner, err := os.ReadFile(p.file(block))
	if err != nil {
		return false
	}
	_, err = os.Stat(string(owner))
	return errors.Is(err, fs.ErrNotExist)
}
