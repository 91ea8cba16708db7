package acme

import (
	"sync"
	"time"
)

// The most new names in a while: of all sandboxes, as many orders as Let's
// Encrypt takes from one account; and of one, since who knows a sandbox can ask
// for each of its 65,535 ports, and must not use up the others' share.
const (
	maxNames = 300
	maxOfOne = 30
	while    = 3 * time.Hour
)

// budget bounds how many different names are asked for. It is safe for
// concurrent use.
type budget struct {
	mu    *sync.Mutex
	spent map[string]order // by name
}

// order is when a name was first asked for, and whose it is.
type order struct {
	at  time.Time
	box string
}

func newBudget() budget { return budget{mu: &sync.Mutex{}, spent: map[string]order{}} }

// spend reports whether a name of a sandbox may be asked for. One that was
// lately costs nothing.
func (b budget) spend(box, name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, ofOne := time.Now(), 0
	for old, o := range b.spent {
		if now.Sub(o.at) >= while {
			delete(b.spent, old)
		} else if o.box == box {
			ofOne++
		}
	}
	if _, ok := b.spent[name]; ok {
		return true
	}
	if len(b.spent) >= maxNames || ofOne >= maxOfOne {
		return false
	}
	b.spent[name] = order{now, box}
	return true
}
