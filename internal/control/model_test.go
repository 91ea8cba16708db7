package control_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// TestModel runs random verbs, deaths, waits and restarts against a model that
// knows only when each sandbox ends. After each step the engine, the registry
// and the host must agree with it.
func TestModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Hide all but what rapid needs: a bubble forbids asking for the deadline.
		rapid.Check(struct{ rapid.TB }{t}, func(t *rapid.T) {
			m := newModel(t)
			defer func() { m.Close() }() // of the last life
			t.Repeat(map[string]func(*rapid.T){
				"":        m.check,
				"create":  m.create,
				"kill":    m.kill,
				"set":     m.setTimeout,
				"refresh": m.refresh,
				"connect": m.connect,
				"exit":    m.exit,
				"wait":    m.wait,
				"restart": m.restart,
			})
		})
	})
}

const modelLimit = 4

type model struct {
	*control.Control
	host *host
	reg  *registry
	ends map[sandbox.ID]time.Time
	past []sandbox.ID // IDs that no longer exist
}

func newModel(t *rapid.T) *model {
	m := &model{host: newHost(), reg: newRegistry(), ends: make(map[sandbox.ID]time.Time)}
	m.boot(t)
	return m
}

func (m *model) boot(t *rapid.T) {
	m.Control = control.New(m.host, templates{}, m.reg, control.Options{MaxSandboxes: modelLimit})
	if err := m.Recover(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (m *model) end(id sandbox.ID) {
	delete(m.ends, id)
	m.past = append(m.past, id)
}

// expire brings the model to the present.
func (m *model) expire() {
	for id, end := range m.ends {
		if !end.After(time.Now()) {
			m.end(id)
		}
	}
}

func seconds(t *rapid.T) time.Duration {
	return time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second
}

// pick draws an ID, mostly of a sandbox that exists.
func (m *model) pick(t *rapid.T) (id sandbox.ID, exists bool) {
	ids := append(slices.Sorted(maps.Keys(m.ends)), m.past...)
	if len(ids) == 0 {
		t.Skip("no sandbox yet")
	}
	i := rapid.IntRange(0, len(ids)-1).Draw(t, "sandbox")
	return ids[i], i < len(m.ends)
}

func (m *model) create(t *rapid.T) {
	d := seconds(t)
	s, err := m.Create(context.Background(), control.CreateRequest{Template: "base", Timeout: d})
	if len(m.ends) == modelLimit {
		if !errs.Is(err, errs.Exhausted) {
			t.Fatalf("create beyond the limit: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.ends[s.ID] = time.Now().Add(d)
}

// verdict fails unless err is nil exactly when the sandbox exists.
func verdict(t *rapid.T, err error, exists bool) {
	if exists && err != nil || !exists && !errs.Is(err, errs.NotFound) {
		t.Fatalf("error %v for a sandbox that exists=%v", err, exists)
	}
}

func (m *model) kill(t *rapid.T) {
	id, exists := m.pick(t)
	verdict(t, m.Kill(context.Background(), id), exists)
	if exists {
		m.end(id)
	}
}

func (m *model) setTimeout(t *rapid.T) {
	id, exists := m.pick(t)
	d := seconds(t)
	verdict(t, m.SetTimeout(context.Background(), id, d), exists)
	if exists {
		m.ends[id] = time.Now().Add(d)
	}
}

func (m *model) extend(id sandbox.ID, d time.Duration) {
	if end := time.Now().Add(d); end.After(m.ends[id]) {
		m.ends[id] = end
	}
}

func (m *model) refresh(t *rapid.T) {
	id, exists := m.pick(t)
	d := seconds(t)
	verdict(t, m.Refresh(context.Background(), id, d), exists)
	if exists {
		m.extend(id, d)
	}
}

func (m *model) connect(t *rapid.T) {
	id, exists := m.pick(t)
	d := seconds(t)
	_, err := m.Connect(context.Background(), id, d)
	verdict(t, err, exists)
	if exists {
		m.extend(id, d)
	}
}

func (m *model) exit(t *rapid.T) {
	id, exists := m.pick(t)
	m.host.die(id)
	m.Exited(id)
	if exists {
		m.end(id)
	}
}

func (m *model) wait(t *rapid.T) {
	time.Sleep(seconds(t))
	synctest.Wait()
	m.expire()
}

// restart closes the engine; meanwhile time passes, one sandbox may die, and
// one may have been launched without a row.
func (m *model) restart(t *rapid.T) {
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if len(m.ends) > 0 && rapid.Bool().Draw(t, "dies") {
		id := slices.Sorted(maps.Keys(m.ends))[0]
		m.host.die(id)
		m.end(id)
	}
	if rapid.Bool().Draw(t, "orphan") {
		_, _ = m.host.Launch(context.Background(), control.LaunchRequest{})
	}
	time.Sleep(seconds(t))
	m.expire()
	m.boot(t)
}

func (m *model) check(t *rapid.T) {
	synctest.Wait()
	want := slices.Sorted(maps.Keys(m.ends))
	page, err := m.List(control.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	listed := ids(page.Sandboxes)
	slices.Sort(listed)
	for _, s := range page.Sandboxes {
		if !s.EndAt.Equal(m.ends[s.ID]) {
			t.Fatalf("%s ends at %v, want %v", s.ID, s.EndAt, m.ends[s.ID])
		}
	}
	rows, err := m.reg.Sandboxes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	alive := m.host.Launched()
	slices.Sort(alive)
	for name, got := range map[string][]sandbox.ID{"listed": listed, "rows": ids(rows), "alive": alive} {
		if !slices.Equal(got, want) {
			t.Fatalf("%s: %v, want %v", name, got, want)
		}
	}
}
