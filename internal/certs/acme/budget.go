package acme

import (
	"sync"
	"time"
)

// The most new names in a while: as many orders as Let's Encrypt takes from one
// account. A sandbox has 65,535 names.
const (
	maxNames = 300
	while    = 3 * time.Hour
)

// budget bounds how many different names are asked for. It is safe for
// concurrent use.
type budget struct {
	mu   *sync.Mutex
	last map[string]time.Time // when a name was first asked for
}

func newBudget() budget { return budget{mu: &sync.Mutex{}, last: map[string]time.Time{}} }

// spend reports whether a name may be asked for. One that was lately costs
// nothing.
func (b budget) spend(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if at, ok := b.last[name]; ok && now.Sub(at) < while {
		return true
	}
	if len(b.last) >= maxNames {
		b.expire(now)
	}
	if len(b.last) >= maxNames {
		return false
	}
	b.last[name] = now
	return true
}

func (b budget) expire(now time.Time) {
	for name, at := range b.last {
		if now.Sub(at) >= while {
			delete(b.last, name)
		}
	}
}
