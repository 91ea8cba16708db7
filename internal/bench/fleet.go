package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/client"
)

// mark is the metadata key that tells a run's sandboxes from all others.
const mark = "sandlot-bench"

const (
	// sandboxLife bounds how long a sandbox stays if this program is killed.
	sandboxLife = 10 * time.Minute
	// closeTimeout bounds the removal of everything at the end.
	closeTimeout = 2 * time.Minute
	// killers is how many sandboxes are removed at a time.
	killers = 4
	// settlePause lets the server finish what a row left behind, so that it
	// does not weigh on the next one.
	settlePause = 500 * time.Millisecond
)

// fleet is the sandboxes of a run.
type fleet struct {
	client *client.Client
	run    map[string]string
}

func newFleet(c *client.Client) *fleet {
	return &fleet{client: c, run: map[string]string{mark: time.Now().UTC().Format(time.RFC3339Nano)}}
}

// create starts a sandbox that belongs to the run.
func (f *fleet) create(ctx context.Context, opts ...client.CreateOption) (*client.Sandbox, error) {
	opts = append(opts, client.WithTimeout(sandboxLife), client.WithMetadata(f.run))
	return f.client.Create(ctx, opts...)
}

// many starts n sandboxes, a few at a time.
func (f *fleet) many(ctx context.Context, n int) ([]*client.Sandbox, error) {
	all := make([]*client.Sandbox, n)
	err := parallel(ctx, killers, n, func(ctx context.Context, i int) (err error) {
		all[i], err = f.create(ctx)
		return err
	})
	return all, err
}

// settle removes the run's sandboxes after a row and waits a little. Errors
// come out at the end, in close.
func (f *fleet) settle(ctx context.Context) {
	_ = f.killAll(ctx)
	pause(ctx, settlePause)
}

// close removes the run's sandboxes even after ctx has ended. It looks twice:
// a create that was interrupted may still have been under way.
func (f *fleet) close(ctx context.Context) error {
	interrupted := ctx.Err() != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err := f.killAll(ctx)
	if interrupted {
		pause(ctx, settlePause)
		err = errors.Join(err, f.killAll(ctx))
	}
	if err != nil {
		return fmt.Errorf("remove the sandboxes of this run: %w", err)
	}
	return nil
}

func (f *fleet) killAll(ctx context.Context) error {
	var ids []string
	for info, err := range f.client.List(ctx, client.Filter{Metadata: f.run}) {
		if err != nil {
			return err
		}
		ids = append(ids, info.ID)
	}
	return parallel(ctx, killers, len(ids), func(ctx context.Context, i int) error {
		if err := f.client.Kill(ctx, ids[i]); err != nil && !errors.Is(err, client.ErrNotFound) {
			return err
		}
		return nil
	})
}

// parallel calls do for 0 to n-1 in at most workers goroutines, waits for all of
// them and returns the first error, after which no new calls begin.
func parallel(ctx context.Context, workers, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(workers, n) {
		wg.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// allAnswer runs a command in every sandbox: figures about dead ones would be
// worth nothing.
func (b *bench) allAnswer(ctx context.Context, boxes []*client.Sandbox) error {
	return parallel(ctx, killers, len(boxes), func(ctx context.Context, i int) error {
		if _, err := boxes[i].Commands.Exec(ctx, []string{"/bin/true"}); err != nil {
			return fmt.Errorf("sandbox %s: %w", boxes[i].ID, err)
		}
		return nil
	})
}
