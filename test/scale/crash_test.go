package scale_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/testreq"
	"github.com/sandlot-dev/sandlot/test/harness"
)

const (
	rounds  = 10
	workers = 4
	// many is how many sandboxes the ledger may hold before they are killed.
	many = 24
)

// The server is ended again and again while it works, mostly killed. Whoever was promised a
// sandbox still has it after the restart, with what ran in it; whatever was
// acknowledged to be dead is dead; and at the end nothing is left (the harness
// compares the host).
func TestKilledServer(t *testing.T) {
	testreq.Root(t)
	s := harness.Start(t, harness.Options{})
	l := &ledger{alive: map[string]promise{}, dead: map[string]bool{}}
	acknowledged := 0
	for round := range rounds {
		c := dial(t, s)
		end := s.Kill9
		if round%4 == 3 { // now and then as Ctrl-C does, under the same load
			end = s.Stop
		}
		work(t, c, l, end)
		if strings.Contains(s.Log(), "panic:") {
			t.Fatalf("the server panicked:\n%s", s.Log())
		}
		s.Restart()
		c = dial(t, s) // the ledger's sandboxes go on with the first one's connections
		l.check(t, c, round)
		acknowledged = len(l.alive) + len(l.dead)
	}
	enough := 2 * rounds
	if slow {
		enough = rounds
	}
	if acknowledged < enough {
		t.Errorf("only %d sandboxes were acknowledged, which proves little", acknowledged)
	}
	t.Logf("%d sandboxes acknowledged, %d of them alive at the end", acknowledged, len(l.alive))
}

// work creates, uses and kills sandboxes until the server ends at a moment of
// chance.
func work(t *testing.T, c *client.Client, l *ledger, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := step(ctx, c, l); err != nil {
					return // the server is dead, or everything below fails too
				}
			}
		})
	}
	window := 600 * time.Millisecond
	if slow {
		window *= 5
	}
	time.Sleep(100*time.Millisecond + rand.N(window))
	end()
	cancel()
	wg.Wait()
}

func step(ctx context.Context, c *client.Client, l *ledger) error {
	l.mu.Lock()
	n := len(l.alive)
	l.mu.Unlock()
	if n < many && rand.N(3) > 0 {
		return l.create(ctx, c)
	}
	return l.kill(ctx)
}

// check compares the server with the ledger.
func (l *ledger) check(t *testing.T, c *client.Client, round int) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(workers)
	for id, p := range l.alive {
		g.Go(func() error {
			sbx, err := c.Connect(t.Context(), id)
			if err != nil {
				t.Errorf("round %d: sandbox %s was promised: %v", round, id, err)
				return nil
			}
			if p.ticker == 0 {
				return nil // the server died while its name was written
			}
			name, err := says(t.Context(), sbx, "cat /tmp/name; kill -0 "+strconv.Itoa(p.ticker)+" && echo ticking")
			if err != nil || name != id+"\nticking" {
				t.Errorf("round %d: sandbox %s says %q: %v", round, id, name, err)
			}
			return nil
		})
	}
	_ = g.Wait() // the functions report by themselves
	for id := range l.dead {
		if _, err := c.Info(t.Context(), id); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("round %d: sandbox %s was killed and is back: %v", round, id, err)
		}
	}
}
