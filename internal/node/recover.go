package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/netns"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store"
)

// Links returns the connections of the sandboxes the store knows as launched,
// for the network to let through before anything else is known of them.
func Links(ctx context.Context, boxes store.Boxes) ([]netns.Link, error) {
	rows, err := boxes.Boxes(ctx)
	if err != nil {
		return nil, fmt.Errorf("load boxes: %w", err)
	}
	var links []netns.Link
	for _, row := range rows {
		if r, err := decode(row); err == nil && r.Claimed {
			links = append(links, link(r.Slot))
		}
	}
	return links, nil
}

func decode(row store.Box) (record, error) {
	var r record
	if err := json.Unmarshal(row.Data, &r); err != nil {
		return r, fmt.Errorf("decode box %s: %w", row.ID, err)
	}
	if r.State.ID != row.ID {
		return r, fmt.Errorf("box %s describes sandbox %q", row.ID, r.State.ID)
	}
	return r, nil
}

// Recover adopts the launched sandboxes of an earlier process that still run,
// and removes whatever else of it is on the host. Call it once, before Launch.
func (n *Node) Recover(ctx context.Context) error {
	rows, err := n.opts.Boxes.Boxes(ctx)
	if err != nil {
		return fmt.Errorf("load boxes: %w", err)
	}
	for _, row := range rows {
		err := n.readopt(ctx, row)
		if errors.Is(err, errAlive) {
			return err
		}
		if err != nil {
			n.opts.Logger.Info("sandbox is not taken over", "sandbox_id", row.ID, "reason", err)
		}
	}
	// What cannot be removed now is tried again at the next start; it must not
	// keep the server from those who live.
	if err := n.sweep(ctx, rows); err != nil {
		n.opts.Logger.Error("sweep what an earlier server left", "error", err)
	}
	return nil
}

var (
	errPooled = errors.New("it waited in the pool")
	errAlive  = errors.New("it lives but cannot be taken over; free what is missing and start again, or end it with: sandlot serve --stop-all")
)

// recoverTries is how often a living sandbox is asked for before giving up:
// sweeping it would lose its work.
const recoverTries = 5

// find returns the instance of a box, or driver.ErrGone.
func (n *Node) find(ctx context.Context, state driver.State) (i driver.Instance, err error) {
	for try := range recoverTries {
		if i, err = n.opts.Driver.Recover(ctx, state); err == nil || errors.Is(err, driver.ErrGone) {
			return i, err
		}
		time.Sleep(time.Duration(try) * 50 * time.Millisecond)
	}
	return nil, fmt.Errorf("sandbox %s: %w (%w)", state.ID, errAlive, err)
}

func (n *Node) readopt(ctx context.Context, row store.Box) error {
	r, err := decode(row)
	if err != nil {
		return err
	}
	if !r.Claimed {
		return errPooled
	}
	i, err := n.find(ctx, r.State)
	if err != nil {
		return err
	}
	b := &box{id: row.ID, slot: r.Slot, claimed: true}
	b.adopt(i)
	n.opts.Slots.Reserve(r.Slot)
	n.mu.Lock()
	n.boxes[b.id] = b
	n.mu.Unlock()
	n.watch(b)
	return nil
}

// sweep removes processes, cgroups, uppers and records of sandboxes nobody
// adopted. Their interfaces go with their processes.
func (n *Node) sweep(ctx context.Context, rows []store.Box) error {
	var keep []driver.State
	n.mu.Lock()
	for _, b := range n.boxes {
		keep = append(keep, b.instance.State())
	}
	n.mu.Unlock()
	swept, err := n.opts.Driver.Sweep(ctx, keep)
	for _, s := range swept {
		n.opts.Logger.Info("swept", "what", s)
	}
	return errors.Join(err, n.sweepUppers(), n.sweepRecords(ctx, rows))
}

func (n *Node) sweepUppers() error {
	ids, err := n.opts.Uppers.List()
	for _, id := range ids {
		if !n.holds(id) {
			err = errors.Join(err, n.opts.Uppers.Delete(id))
		}
	}
	return err
}

func (n *Node) sweepRecords(ctx context.Context, rows []store.Box) error {
	var all error
	for _, row := range rows {
		if !n.holds(row.ID) {
			all = errors.Join(all, n.opts.Boxes.DeleteBox(ctx, row.ID))
		}
	}
	return all
}

func (n *Node) holds(id sandbox.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.boxes[id] != nil
}
