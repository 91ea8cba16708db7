// Package memory is a registry that forgets everything when it is closed. It
// shows what the contract of package store means without a file, and stands in
// for one in tests; only tests import it.
package memory

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store"
)

var _ store.Store = (*Store)(nil)

// Store is a registry in memory. Make it with New.
type Store struct {
	mu        sync.Mutex
	closed    bool
	sandboxes map[sandbox.ID]store.Sandbox
	boxes     map[sandbox.ID]store.Box
	keys      map[string]store.Key
	usages    map[string]store.Usage
}

// New returns an empty registry.
func New() *Store {
	return &Store{
		sandboxes: make(map[sandbox.ID]store.Sandbox),
		boxes:     make(map[sandbox.ID]store.Box),
		keys:      make(map[string]store.Key),
		usages:    make(map[string]store.Usage),
	}
}

// do runs f under the lock unless the store is closed or ctx is done.
func (s *Store) do(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("registry is closed")
	}
	return f()
}

func sorted[K cmp.Ordered, V any](m map[K]V) []V {
	out := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

// PutSandbox implements store.Sandboxes.
func (s *Store) PutSandbox(ctx context.Context, row store.Sandbox) error {
	return s.do(ctx, func() error { s.sandboxes[row.ID] = row; return nil })
}

// DeleteSandbox implements store.Sandboxes.
func (s *Store) DeleteSandbox(ctx context.Context, id sandbox.ID) error {
	return s.do(ctx, func() error { delete(s.sandboxes, id); return nil })
}

// Sandboxes implements store.Sandboxes.
func (s *Store) Sandboxes(ctx context.Context) (rows []store.Sandbox, err error) {
	err = s.do(ctx, func() error { rows = sorted(s.sandboxes); return nil })
	return rows, err
}

// PutBox implements store.Boxes.
func (s *Store) PutBox(ctx context.Context, b store.Box) error {
	b.Data = bytes.Clone(b.Data)
	return s.do(ctx, func() error { s.boxes[b.ID] = b; return nil })
}

// DeleteBox implements store.Boxes.
func (s *Store) DeleteBox(ctx context.Context, id sandbox.ID) error {
	return s.do(ctx, func() error { delete(s.boxes, id); return nil })
}

// Boxes implements store.Boxes.
func (s *Store) Boxes(ctx context.Context) (boxes []store.Box, err error) {
	err = s.do(ctx, func() error { boxes = sorted(s.boxes); return nil })
	for i := range boxes {
		boxes[i].Data = bytes.Clone(boxes[i].Data)
	}
	return boxes, err
}

// AddKey implements store.Keys.
func (s *Store) AddKey(ctx context.Context, k store.Key) error {
	return s.do(ctx, func() error {
		for _, have := range s.keys {
			if have.ID == k.ID || have.Hash == k.Hash {
				return errs.New(errs.Conflict, "this API key exists already")
			}
		}
		s.keys[k.ID] = k
		return nil
	})
}

// TouchKey implements store.Keys.
func (s *Store) TouchKey(ctx context.Context, id string, at time.Time) error {
	return s.do(ctx, func() error {
		if k, ok := s.keys[id]; ok {
			k.LastUsed = at
			s.keys[id] = k
		}
		return nil
	})
}

// DeleteKey implements store.Keys.
func (s *Store) DeleteKey(ctx context.Context, id string) error {
	return s.do(ctx, func() error { delete(s.keys, id); return nil })
}

// Keys implements store.Keys.
func (s *Store) Keys(ctx context.Context) (keys []store.Key, err error) {
	err = s.do(ctx, func() error { keys = sorted(s.keys); return nil })
	slices.SortStableFunc(keys, func(a, b store.Key) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return keys, err
}

// PutUsage implements store.Usages.
func (s *Store) PutUsage(ctx context.Context, u store.Usage) error {
	return s.do(ctx, func() error { s.usages[u.TemplateID] = u; return nil })
}

// Usages implements store.Usages.
func (s *Store) Usages(ctx context.Context) (usages []store.Usage, err error) {
	err = s.do(ctx, func() error { usages = sorted(s.usages); return nil })
	return usages, err
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}
