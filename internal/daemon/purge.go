package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/netns"
	"github.com/sandlot-dev/sandlot/internal/slot"
)

// Setup does everything Serve needs done once: directories, the pool's file,
// the base template, the first key.
func (d Daemon) Setup(ctx context.Context, cfg config.Config, stderr io.Writer) error {
	if err := EnterPrivateMounts(); err != nil {
		return err
	}
	s, err := open(ctx, cfg, newLogger(cfg, stderr), serving)
	if err != nil {
		return err
	}
	_, err = ensureBase(ctx, s, stderr)
	return errors.Join(err, s.close(context.WithoutCancel(ctx)))
}

// StopAll ends every sandbox of a data directory whose server is not running,
// and keeps everything else.
func (d Daemon) StopAll(ctx context.Context, cfg config.Config) error {
	if err := EnterPrivateMounts(); err != nil {
		return err
	}
	s, err := open(ctx, cfg, newLogger(cfg, io.Discard), everything)
	if err != nil {
		return err
	}
	return errors.Join(s.stopAll(ctx), s.close(context.WithoutCancel(ctx)))
}

// stopAll ends the sandboxes and gives back what they held on the host.
func (s *system) stopAll(ctx context.Context) error {
	err := s.leaveHost(ctx)
	boxes, e := s.store.Boxes(ctx)
	err = errors.Join(err, e)
	for _, b := range boxes {
		err = errors.Join(err, s.store.DeleteBox(ctx, b.ID))
	}
	rows, e := s.store.Sandboxes(ctx)
	err = errors.Join(err, e)
	for _, r := range rows {
		err = errors.Join(err, s.store.DeleteSandbox(ctx, r.ID))
	}
	ids, e := s.uppers.List()
	err = errors.Join(err, e)
	for _, id := range ids {
		err = errors.Join(err, s.uppers.Delete(id))
	}
	return err
}

// leaveHost ends every process of a sandbox and removes the cgroups, the table,
// the interfaces that are left, and the claims on host-wide numbers.
func (s *system) leaveHost(ctx context.Context) error {
	_, err := s.driver.Sweep(ctx, nil)
	return errors.Join(err, netns.RemoveTable(name(s.cfg.DataDir)), s.removeInterfaces(ctx),
		netns.RestoreForwarding(), s.slots.Forget())
}

// removeInterfaces waits for the kernel, which removes interfaces with their
// namespaces a little later, and then removes the rest itself.
func (s *system) removeInterfaces(ctx context.Context) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		left, err := s.interfaces()
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return removeAll(left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *system) interfaces() ([]string, error) {
	all, err := netns.Interfaces("sl")
	var own []string
	for _, name := range all {
		if n, ok := slot.FromInterface(name); ok && s.slots.Owns(n) {
			own = append(own, name)
		}
	}
	return own, err
}

func removeAll(names []string) error {
	var all error
	for _, n := range names {
		all = errors.Join(all, netns.RemoveInterface(n))
	}
	return all
}

// Purge ends every sandbox and removes the data directory and all traces on the
// host, also those of a data directory that was deleted by hand. A directory
// that is not Sandlot's is refused.
func (d Daemon) Purge(ctx context.Context, cfg config.Config) error {
	if err := EnterPrivateMounts(); err != nil {
		return err
	}
	s, err := open(ctx, cfg, newLogger(cfg, io.Discard), hostParts)
	if err != nil {
		return err
	}
	if err := s.leaveHost(ctx); err != nil {
		return errors.Join(fmt.Errorf("nothing was deleted: %w", err), s.close(context.WithoutCancel(ctx)))
	}
	forgotten := s.forget(ctx)
	// The lock, the first to be taken, is the last to go: the files go before it.
	s.undo = slices.Insert(s.undo, 1, func(context.Context) error { return removeData(cfg.DataDir) })
	return errors.Join(s.close(context.WithoutCancel(ctx)), forgotten)
}
