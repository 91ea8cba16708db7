// Package storetest is the suite that says what package store's contract means.
// Every implementation runs it from its own tests; only tests import it.
package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store"
)

// Run runs the suite. open returns an empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"SandboxRoundTrip", sandboxRoundTrip},
		{"SandboxReplace", sandboxReplace},
		{"SandboxDelete", sandboxDelete},
		{"Boxes", boxes},
		{"Keys", keys},
		{"KeyConflict", keyConflict},
		{"Usages", usages},
		{"EmptyLists", emptyLists},
		{"Ownership", ownership},
		{"CancelledContext", cancelledContext},
		{"Concurrent", concurrent},
		{"Closed", closed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t)
			defer s.Close()
			tc.test(t, s)
		})
	}
}

// FullSandbox returns a row with every field set.
func FullSandbox() store.Sandbox {
	start := time.Date(2026, 5, 4, 3, 2, 1, 123e6, time.UTC)
	no := false
	return store.Sandbox{
		ID: sandbox.NewID(), TemplateID: "tmpl", BuildID: "build", Aliases: []string{"base", "b2"},
		State: sandbox.Running, StartedAt: start, EndAt: start.Add(5 * time.Minute),
		Metadata: map[string]string{"user": "ä/&=%", "": "empty key"}, Env: map[string]string{"A": "1\n2"},
		AccessToken: "token", TrafficToken: "traffic", Insecure: true, MaskHost: "localhost:${PORT}", HTTPSPorts: []uint16{443, 8443}, EnvdVersion: "0.6.13", Limits: sandbox.DefaultLimits(),
		Network: json.RawMessage(`{"allowPublicTraffic":true}`), AllowInternet: &no,
		AutoPause: true, AutoPauseMemory: true, AutoResume: true,
	}
}

// FullKey returns a key with every field set, made from a number.
func FullKey(n int) store.Key {
	return store.Key{
		ID: fmt.Sprintf("key-%d", n), Name: "name", Hash: [32]byte{byte(n), 1}, Prefix: "e2b_", Length: 40,
		MaskPrefix: "ab", MaskSuffix: "cdef",
		CreatedAt: time.Unix(int64(1000+n), 5).UTC(), LastUsed: time.Unix(int64(2000+n), 0).UTC(),
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantSandboxes(t *testing.T, s store.Store, want ...store.Sandbox) {
	t.Helper()
	got, err := s.Sandboxes(t.Context())
	must(t, err)
	byID := cmpopts.SortSlices(func(a, b store.Sandbox) bool { return a.ID < b.ID })
	if d := cmp.Diff(want, got, byID, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("Sandboxes (-want +got):\n%s", d)
	}
}

func sandboxRoundTrip(t *testing.T, s store.Store) {
	full, bare := FullSandbox(), store.Sandbox{ID: sandbox.NewID(), State: sandbox.Running}
	must(t, s.PutSandbox(t.Context(), full))
	must(t, s.PutSandbox(t.Context(), bare))
	wantSandboxes(t, s, full, bare)
	got, err := s.Sandboxes(t.Context())
	must(t, err)
	if got[0].ID > got[1].ID {
		t.Error("Sandboxes are not ordered by ID")
	}
}

func sandboxReplace(t *testing.T, s store.Store) {
	row := FullSandbox()
	must(t, s.PutSandbox(t.Context(), row))
	row.EndAt, row.Metadata = row.EndAt.Add(time.Hour), nil
	must(t, s.PutSandbox(t.Context(), row))
	wantSandboxes(t, s, row)
}

func sandboxDelete(t *testing.T, s store.Store) {
	keep, drop := FullSandbox(), FullSandbox()
	must(t, s.PutSandbox(t.Context(), keep))
	must(t, s.PutSandbox(t.Context(), drop))
	for range 2 { // the second time there is nothing to delete
		must(t, s.DeleteSandbox(t.Context(), drop.ID))
		wantSandboxes(t, s, keep)
	}
}

func boxes(t *testing.T, s store.Store) {
	ctx := t.Context()
	want := []store.Box{{ID: "a", Data: []byte("\x00binary\xff")}, {ID: "b", Data: []byte{}}}
	must(t, s.PutBox(ctx, store.Box{ID: "b"}))
	must(t, s.PutBox(ctx, store.Box{ID: "a", Data: []byte("old")}))
	must(t, s.PutBox(ctx, want[0]))
	got, err := s.Boxes(ctx)
	must(t, err)
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("Boxes (-want +got):\n%s", d)
	}
	for range 2 {
		must(t, s.DeleteBox(ctx, "a"))
		got, err = s.Boxes(ctx)
		must(t, err)
		if len(got) != 1 || got[0].ID != "b" {
			t.Errorf("after delete: %v", got)
		}
	}
}

func keys(t *testing.T, s store.Store) {
	ctx := t.Context()
	want := []store.Key{FullKey(1), FullKey(2), FullKey(3)}
	want[1].LastUsed = time.Time{}
	for _, i := range []int{1, 2, 0} {
		must(t, s.AddKey(ctx, want[i]))
	}
	wantKeys(t, s, want)
	want[2].LastUsed = time.Unix(9999, 0).UTC()
	must(t, s.TouchKey(ctx, want[2].ID, want[2].LastUsed))
	must(t, s.TouchKey(ctx, "nobody", want[2].LastUsed))
	wantKeys(t, s, want)
	for range 2 {
		must(t, s.DeleteKey(ctx, want[0].ID))
		wantKeys(t, s, want[1:])
	}
}

func wantKeys(t *testing.T, s store.Store, want []store.Key) {
	t.Helper()
	got, err := s.Keys(t.Context())
	must(t, err)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Keys (-want +got):\n%s", d)
	}
}

func keyConflict(t *testing.T, s store.Store) {
	first := FullKey(1)
	must(t, s.AddKey(t.Context(), first))
	sameID, sameHash := FullKey(2), FullKey(3)
	sameID.ID, sameHash.Hash = first.ID, first.Hash
	for _, k := range []store.Key{sameID, sameHash} {
		if err := s.AddKey(t.Context(), k); !errs.Is(err, errs.Conflict) {
			t.Errorf("AddKey of a duplicate = %v, want kind conflict", err)
		}
	}
	wantKeys(t, s, []store.Key{first})
}

func usages(t *testing.T, s store.Store) {
	ctx := t.Context()
	at := time.Unix(77, 0).UTC()
	must(t, s.PutUsage(ctx, store.Usage{TemplateID: "b", Spawns: 1, LastSpawn: at}))
	must(t, s.PutUsage(ctx, store.Usage{TemplateID: "a"}))
	must(t, s.PutUsage(ctx, store.Usage{TemplateID: "b", Spawns: 2, LastSpawn: at.Add(time.Second)}))
	got, err := s.Usages(ctx)
	must(t, err)
	want := []store.Usage{{TemplateID: "a"}, {TemplateID: "b", Spawns: 2, LastSpawn: at.Add(time.Second)}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Usages (-want +got):\n%s", d)
	}
}

func emptyLists(t *testing.T, s store.Store) {
	ctx := t.Context()
	wantSandboxes(t, s)
	b, err1 := s.Boxes(ctx)
	k, err2 := s.Keys(ctx)
	u, err3 := s.Usages(ctx)
	if err1 != nil || err2 != nil || err3 != nil || len(b)+len(k)+len(u) != 0 {
		t.Errorf("an empty store lists %v %v %v (%v, %v, %v)", b, k, u, err1, err2, err3)
	}
}

// ownership changes what was given and what was returned.
func ownership(t *testing.T, s store.Store) {
	data := []byte("data")
	must(t, s.PutBox(t.Context(), store.Box{ID: "a", Data: data}))
	data[0] = 'X'
	for range 2 {
		got, err := s.Boxes(t.Context())
		must(t, err)
		if string(got[0].Data) != "data" {
			t.Fatalf("box holds %q, want data", got[0].Data)
		}
		got[0].Data[0] = 'Y'
	}
}

func cancelledContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.PutSandbox(ctx, FullSandbox()); err == nil {
		t.Error("PutSandbox with a cancelled context succeeded")
	}
	if err := s.AddKey(ctx, FullKey(1)); err == nil {
		t.Error("AddKey with a cancelled context succeeded")
	}
	wantSandboxes(t, s)
	wantKeys(t, s, []store.Key{})
}

func concurrent(t *testing.T, s store.Store) {
	const workers, each = 8, 10
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				id := sandbox.ID(fmt.Sprintf("w%d-%d", w, i))
				err := s.PutSandbox(t.Context(), store.Sandbox{ID: id})
				if err == nil && i%2 == 1 {
					err = s.DeleteSandbox(t.Context(), id)
				}
				if err != nil {
					t.Error(err)
				}
			}
			if err := s.AddKey(t.Context(), FullKey(w)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	rows, err := s.Sandboxes(t.Context())
	must(t, err)
	if len(rows) != workers*each/2 {
		t.Errorf("%d rows, want %d", len(rows), workers*each/2)
	}
	k, err := s.Keys(t.Context())
	must(t, err)
	if len(k) != workers {
		t.Errorf("%d keys, want %d", len(k), workers)
	}
}

func closed(t *testing.T, s store.Store) {
	must(t, s.Close())
	if err := s.PutSandbox(t.Context(), FullSandbox()); err == nil {
		t.Error("PutSandbox after Close succeeded")
	}
	if _, err := s.Sandboxes(t.Context()); err == nil {
		t.Error("Sandboxes after Close succeeded")
	}
}
