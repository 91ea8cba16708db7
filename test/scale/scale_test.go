// Package scale_test drives the real binary hard: hundreds of sandboxes alive
// at once, a server killed again and again under load, and every way a server
// ends. It proves that nobody who was promised a sandbox loses it and that
// nothing stays on the host.
package scale_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/testreq"
	"github.com/sandlot-dev/sandlot/test/harness"
)

// dial returns a client of a server.
func dial(t *testing.T, s *harness.Server) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{APIURL: s.URL, SandboxURL: s.URL, APIKey: s.Key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// says runs a shell line in a sandbox and returns what it printed.
func says(ctx context.Context, sbx *client.Sandbox, line string) (string, error) {
	result, err := sbx.Commands.Exec(ctx, []string{"/bin/sh", "-c", line})
	return strings.TrimSpace(result.Stdout), err
}

// slow stretches what these tests wait for, and shrinks what they make, on a
// machine whose processor is emulated.
var slow = os.Getenv("SANDLOT_TEST_EMULATED") != ""

func crowd() int {
	if slow {
		return 60
	}
	return 500
}

// Five hundred sandboxes live at the same time, each answers, each dies.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("makes hundreds of sandboxes")
	}
	testreq.Root(t)
	s := harness.Start(t, harness.Options{})
	c := dial(t, s)
	boxes := gather(t, c)
	phase(t, "write", func(g *errgroup.Group) {
		for i, b := range boxes {
			g.Go(func() error {
				_, err := says(t.Context(), b, fmt.Sprintf("echo %d > /tmp/number", i))
				return err
			})
		}
	})
	// Only now, with all of them alive: each has its own file system.
	phase(t, "read", func(g *errgroup.Group) {
		for i, b := range boxes {
			g.Go(func() error {
				got, err := says(t.Context(), b, "cat /tmp/number; hostname")
				if want := fmt.Sprintf("%d\nsandbox", i); err == nil && got != want {
					return fmt.Errorf("sandbox %d says %q", i, got)
				}
				return err
			})
		}
	})
	phase(t, "kill", func(g *errgroup.Group) {
		for _, b := range boxes {
			g.Go(func() error { return b.Kill(t.Context()) })
		}
	})
	for info, err := range c.List(t.Context(), client.Filter{}) {
		t.Fatalf("still listed: %v, %v", info.ID, err)
	}
}

// gather creates the crowd.
func gather(t *testing.T, c *client.Client) []*client.Sandbox {
	t.Helper()
	boxes := make([]*client.Sandbox, crowd())
	phase(t, "create", func(g *errgroup.Group) {
		for i := range boxes {
			g.Go(func() (err error) {
				boxes[i], err = c.Create(t.Context(), client.WithTimeout(10*time.Minute))
				return err
			})
		}
	})
	return boxes
}

// phase runs what add starts, eight at a time, and says how long it took.
func phase(t *testing.T, name string, add func(*errgroup.Group)) {
	t.Helper()
	start := time.Now()
	var g errgroup.Group
	g.SetLimit(8)
	add(&g)
	if err := g.Wait(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Logf("%s: %s", name, time.Since(start).Round(time.Millisecond))
}

// promise is a sandbox the server acknowledged.
type promise struct {
	sbx *client.Sandbox
	// ticker is the process id of a loop inside.
	ticker int
}

// ledger is what a client knows about its sandboxes.
type ledger struct {
	mu sync.Mutex
	// alive were acknowledged, dead were acknowledged to be killed. What is in
	// neither was under way when the server died.
	alive map[string]promise
	dead  map[string]bool
}

func (l *ledger) take() (promise, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, p := range l.alive {
		delete(l.alive, id)
		return p, true
	}
	return promise{}, false
}

func (l *ledger) put(p promise) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive[p.sbx.ID] = p
}

func (l *ledger) buried(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead[id] = true
}

// create makes a sandbox that knows its name and counts in a file.
func (l *ledger) create(ctx context.Context, c *client.Client) error {
	sbx, err := c.Create(ctx, client.WithTimeout(10*time.Minute))
	if err != nil {
		return err
	}
	p := promise{sbx: sbx}
	l.put(p)
	if _, err := says(ctx, sbx, "echo "+sbx.ID+" > /tmp/name"); err != nil {
		return err
	}
	cmd, err := sbx.Commands.StartExec(ctx, []string{"/bin/sh", "-c", "while :; do date +%s%N > /tmp/tick; sleep 0.05; done"})
	if err != nil {
		return err
	}
	cmd.Disconnect()
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ours := l.alive[sbx.ID]; ours { // no other worker killed it meanwhile
		p.ticker = cmd.PID
		l.alive[sbx.ID] = p
	}
	return nil
}

func (l *ledger) kill(ctx context.Context) error {
	p, ok := l.take()
	if !ok {
		return nil
	}
	err := p.sbx.Kill(ctx)
	if err == nil {
		l.buried(p.sbx.ID)
	}
	return err
}
