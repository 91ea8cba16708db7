package scale_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/testreq"
	"github.com/sandlot-dev/sandlot/test/harness"
)

// Five hundred sandboxes, each with a watcher, each of which sees what happens in
// its own: the kernel counts inotify instances per user, and the sandboxes'
// agents must not use them up for each other or for the host.
func TestWatchersInACrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("makes hundreds of sandboxes")
	}
	testreq.Root(t)
	s := harness.Start(t, harness.Options{})
	c := dial(t, s)
	boxes := gather(t, c)
	watchers := make([]*client.Watcher, len(boxes))
	phase(t, "watch", func(g *errgroup.Group) {
		for i, b := range boxes {
			g.Go(func() (err error) {
				watchers[i], err = b.Files.Watch(t.Context(), "/home/user", client.Recursively())
				return err
			})
		}
	})
	// Only now, with all of them watching.
	phase(t, "see", func(g *errgroup.Group) {
		for i, b := range boxes {
			g.Go(func() error { return sees(t.Context(), b, watchers[i], fmt.Sprintf("new/%d", i)) })
		}
	})
	phase(t, "kill", func(g *errgroup.Group) {
		for i, b := range boxes {
			g.Go(func() error {
				watchers[i].Close()
				return b.Kill(t.Context())
			})
		}
	})
}

// sees makes a file in a new directory and waits for its event.
func sees(ctx context.Context, sbx *client.Sandbox, w *client.Watcher, name string) error {
	if _, err := says(ctx, sbx, "mkdir ~/new; echo > ~/"+name); err != nil {
		return err
	}
	late := time.AfterFunc(2*time.Minute, w.Close)
	defer late.Stop()
	for e, err := range w.Events() {
		if err != nil || e.Name == name {
			return err
		}
	}
	return fmt.Errorf("the watcher of %s ended or saw nothing for two minutes", sbx.ID)
}
