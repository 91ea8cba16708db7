package control_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

func TestCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		no := false
		req := control.CreateRequest{
			Template: "base", Timeout: time.Minute,
			Metadata: map[string]string{"a": "b"}, Env: map[string]string{"X": "1"},
			Network: []byte(`{}`), AllowInternet: &no,
		}
		s, err := r.Create(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().UTC()
		want := control.Sandbox{
			ID: s.ID, TemplateID: base.ID, BuildID: "b1", Aliases: base.Aliases, State: sandbox.Running,
			StartedAt: now, EndAt: now.Add(time.Minute), Metadata: req.Metadata, Env: req.Env,
			AccessToken: s.AccessToken, EnvdVersion: "0.6.13", Limits: sandbox.DefaultLimits(),
			Network: req.Network, AllowInternet: &no,
		}
		if d := cmp.Diff(want, s); d != "" {
			t.Errorf("created (-want +got):\n%s", d)
		}
		if len(s.AccessToken) < 32 {
			t.Errorf("access token %q is too short", s.AccessToken)
		}
		if d := cmp.Diff([]control.Sandbox{want}, r.reg.rows(t)); d != "" {
			t.Errorf("rows (-want +got):\n%s", d)
		}
		if got, err := r.Get(s.ID); err != nil || got.AccessToken != s.AccessToken {
			t.Errorf("Get = %v, %v", got, err)
		}
	})
}

func TestCreateRefuses(t *testing.T) {
	r := start(t, control.Options{MaxTimeout: time.Hour})
	big := strings.Repeat("x", 64<<10)
	for _, tc := range []struct {
		name string
		req  control.CreateRequest
		kind errs.Kind
		says string
	}{
		{"no template", control.CreateRequest{}, errs.Invalid, "templateID"},
		{"long template", control.CreateRequest{Template: big}, errs.Invalid, "templateID"},
		{"unknown template", control.CreateRequest{Template: "nope"}, errs.NotFound, "nope"},
		{"zero timeout", control.CreateRequest{Template: "base", Timeout: -1}, errs.Invalid, "at least 1 second"},
		{"negative timeout", control.CreateRequest{Template: "base", Timeout: -time.Minute}, errs.Invalid, "-60"},
		{"absurd timeout", control.CreateRequest{Template: "base", Timeout: time.Hour + 1}, errs.Invalid, "max_timeout"},
		{"auto pause", control.CreateRequest{Template: "base", AutoPause: true}, errs.Unsupported, "autoPause"},
		{"auto resume", control.CreateRequest{Template: "base", AutoResume: true}, errs.Unsupported, "autoResume"},
		{"big metadata", control.CreateRequest{Template: "base", Metadata: map[string]string{"k": big}}, errs.Invalid, "metadata"},
		{"big env", control.CreateRequest{Template: "base", Env: map[string]string{"k": big + big}}, errs.Invalid, "envVars"},
		{"env name with =", control.CreateRequest{Template: "base", Env: map[string]string{"a=b": ""}}, errs.Invalid, "a=b"},
		{"empty env name", control.CreateRequest{Template: "base", Env: map[string]string{"": ""}}, errs.Invalid, "envVars"},
		{"NUL in env", control.CreateRequest{Template: "base", Env: map[string]string{"A": "\x00"}}, errs.Invalid, "A must not"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.req.Timeout == 0 {
				tc.req.Timeout = time.Minute
			}
			_, err := r.Create(t.Context(), tc.req)
			wantKind(t, err, tc.kind)
			if !strings.Contains(errs.PublicMessage(err), tc.says) {
				t.Errorf("message %q does not contain %q", errs.PublicMessage(err), tc.says)
			}
		})
	}
	if r.host.launches != 0 {
		t.Errorf("%d launches of refused sandboxes", r.host.launches)
	}
}

// TestLifetime checks the end of life to the millisecond.
func TestLifetime(t *testing.T) {
	for _, tc := range []struct {
		name string
		act  func(*testing.T, *rig, sandbox.ID) error
		want time.Duration // from creation; the act happens at 4 s
	}{
		{"untouched", func(*testing.T, *rig, sandbox.ID) error { return nil }, 10 * time.Second},
		{"shorter", func(t *testing.T, r *rig, id sandbox.ID) error { return r.SetTimeout(t.Context(), id, time.Second) }, 5 * time.Second},
		{"longer", func(t *testing.T, r *rig, id sandbox.ID) error { return r.SetTimeout(t.Context(), id, time.Minute) }, 64 * time.Second},
		{"refresh extends", func(t *testing.T, r *rig, id sandbox.ID) error { return r.Refresh(t.Context(), id, 20*time.Second) }, 24 * time.Second},
		{"refresh never shortens", func(t *testing.T, r *rig, id sandbox.ID) error { return r.Refresh(t.Context(), id, time.Second) }, 10 * time.Second},
		{"connect extends", func(t *testing.T, r *rig, id sandbox.ID) error {
			_, err := r.Connect(t.Context(), id, 20*time.Second)
			return err
		}, 24 * time.Second},
		{"connect never shortens", func(t *testing.T, r *rig, id sandbox.ID) error {
			_, err := r.Connect(t.Context(), id, time.Second)
			return err
		}, 10 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, control.Options{})
				other := r.create(t, time.Hour)
				s := r.create(t, 10*time.Second)
				time.Sleep(4 * time.Second)
				if err := tc.act(t, r, s.ID); err != nil {
					t.Fatal(err)
				}
				time.Sleep(tc.want - 4*time.Second - time.Millisecond)
				synctest.Wait()
				got, err := r.Get(s.ID)
				if err != nil {
					t.Fatalf("ended too early: %v", err)
				}
				if want := s.StartedAt.Add(tc.want); !got.EndAt.Equal(want) {
					t.Errorf("EndAt = %v, want %v", got.EndAt, want)
				}
				time.Sleep(time.Millisecond)
				synctest.Wait()
				_, err = r.Get(s.ID)
				wantKind(t, err, errs.NotFound)
				if alive := r.host.Launched(); !slices.Equal(alive, []sandbox.ID{other.ID}) {
					t.Errorf("alive: %v, want only %v", alive, other.ID)
				}
				if rows := r.reg.rows(t); len(rows) != 1 {
					t.Errorf("%d rows, want 1", len(rows))
				}
			})
		})
	}
}

func TestManyExpireAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, control.Options{})
		for range 200 {
			r.create(t, time.Minute)
		}
		r.host.destroying(func(sandbox.ID) error { time.Sleep(10 * time.Millisecond); return nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if page, _ := r.List(control.ListRequest{}); len(page.Sandboxes) != 0 {
			t.Errorf("%d sandboxes still listed at their end of life", len(page.Sandboxes))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.wantNothing(t)
	})
}

func TestBadTimeouts(t *testing.T) {
	r := start(t, control.Options{})
	s := r.create(t, time.Minute)
	for _, d := range []time.Duration{0, -time.Second, time.Millisecond, 31 * 24 * time.Hour} {
		wantKind(t, r.SetTimeout(t.Context(), s.ID, d), errs.Invalid)
		wantKind(t, r.Refresh(t.Context(), s.ID, d), errs.Invalid)
		_, err := r.Connect(t.Context(), s.ID, d)
		wantKind(t, err, errs.Invalid)
	}
	wantKind(t, r.Refresh(t.Context(), s.ID, time.Hour+time.Second), errs.Invalid)
}

func TestUnknownSandbox(t *testing.T) {
	r := start(t, control.Options{})
	id := sandbox.NewID()
	_, err := r.Get(id)
	wantKind(t, err, errs.NotFound)
	wantKind(t, r.Kill(t.Context(), id), errs.NotFound)
	wantKind(t, r.SetTimeout(t.Context(), id, time.Minute), errs.NotFound)
	wantKind(t, r.Refresh(t.Context(), id, time.Minute), errs.NotFound)
	_, err = r.Connect(t.Context(), id, time.Minute)
	wantKind(t, err, errs.NotFound)
	wantKind(t, r.Authorize(id, "x"), errs.NotFound)
	r.Exited(id)
}

func TestKill(t *testing.T) {
	r := start(t, control.Options{})
	s := r.create(t, time.Minute)
	if err := r.Kill(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	r.wantNothing(t)
	wantKind(t, r.Kill(t.Context(), s.ID), errs.NotFound)
	wantKind(t, r.SetTimeout(t.Context(), s.ID, time.Minute), errs.NotFound)
	if n := r.host.destroyed[s.ID]; n != 1 {
		t.Errorf("destroyed %d times, want once", n)
	}
}

func TestKillsAtOnce(t *testing.T) {
	r := start(t, control.Options{})
	s := r.create(t, time.Minute)
	var wg sync.WaitGroup
	results := make(chan error, 10)
	for range cap(results) {
		wg.Go(func() { results <- r.Kill(t.Context(), s.ID) })
	}
	wg.Wait()
	close(results)
	done := 0
	for err := range results {
		if err == nil {
			done++
		} else {
			wantKind(t, err, errs.NotFound)
		}
	}
	if done != 1 {
		t.Errorf("%d kills succeeded, want 1", done)
	}
}

// TestLimit creates many at once and kills some; the limit holds throughout.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 7
		r := start(t, control.Options{MaxSandboxes: limit})
		r.host.launching(func(context.Context) error { time.Sleep(time.Millisecond); return nil })
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				s, err := r.Create(t.Context(), control.CreateRequest{Template: "base", Timeout: time.Minute})
				if err != nil {
					wantKind(t, err, errs.Exhausted)
					if !strings.Contains(err.Error(), "max_sandboxes") {
						t.Errorf("message %q does not name the setting", err)
					}
					time.Sleep(time.Millisecond)
					return
				}
				if s.ID[1] > 'm' { // about half of them
					if err := r.Kill(t.Context(), s.ID); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if r.host.most > limit {
			t.Errorf("%d sandboxes at once, limit %d", r.host.most, limit)
		}
	})
}

func TestClosed(t *testing.T) {
	r := start(t, control.Options{})
	s := r.create(t, time.Minute)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := r.Create(t.Context(), control.CreateRequest{Template: "base", Timeout: time.Minute})
	wantKind(t, err, errs.Unavailable)
	wantKind(t, r.Kill(t.Context(), s.ID), errs.Unavailable)
	if !r.host.Alive(s.ID) {
		t.Error("Close ended a sandbox")
	}
	early := control.New(newHost(), templates{}, newRegistry(), control.Options{})
	_, err = early.Create(t.Context(), control.CreateRequest{Template: "base", Timeout: time.Minute})
	wantKind(t, err, errs.Unavailable)
}

func BenchmarkGet(b *testing.B) {
	r := start(b, control.Options{})
	var id sandbox.ID
	for range 500 {
		id = r.create(b, time.Hour).ID
	}
	for b.Loop() {
		if _, err := r.Get(id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSandboxBySignature(b *testing.B) {
	r := start(b, control.Options{})
	for range 500 {
		r.create(b, time.Hour)
	}
	for b.Loop() {
		_, _ = r.SandboxBySignature(control.FileSignature{Path: "/home/user/file", Op: "read", Signature: "v1_x"})
	}
}
