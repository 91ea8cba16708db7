package drivertest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

func (s *suite) life() {
	spec := s.Spec(s)
	i, err := s.driver.Create(s.Context(), spec)
	s.ok("create", err)
	defer s.mustDestroy(i)
	st := i.State()
	if st.ID != spec.ID || st.PID <= 0 || st.UIDBase != spec.UIDBase {
		s.Errorf("state %+v of spec %+v", st, spec)
	}
	s.ok("start", i.Start(s.Context()))
	if i.Start(s.Context()) == nil {
		s.Error("it could be started twice")
	}
	for range 3 {
		s.wantAlive(i)
	}
	if i.State() != st {
		s.Errorf("the state changed from %+v to %+v", st, i.State())
	}
	s.mustDestroy(i)
	_, err = i.Dial(s.Context())
	s.wantGone("dial after destroy", err)
	s.wantGone("signal after destroy", i.Signal(s.Context(), sandbox.SIGTERM))
	if i.Start(s.Context()) == nil {
		s.Error("it could be started after its end")
	}
	s.wantEnd(i)
}

func (s *suite) waits() {
	i := s.create()
	if err := ping(s.Context(), i, 100*time.Millisecond); err == nil {
		s.Error("the agent answers before the start")
	}
	ctx, cancel := context.WithTimeout(s.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := i.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("wait: %v, want the context's end", err)
	}
	s.ok("start", i.Start(s.Context()))
	s.wantAlive(i)
}

func (s *suite) kill() {
	i := s.start()
	s.ok("kill", i.Signal(s.Context(), sandbox.SIGKILL))
	for range 2 {
		s.wantEnd(i)
	}
	s.wantGone("signal", i.Signal(s.Context(), sandbox.SIGKILL))
	if err := ping(s.Context(), i, time.Second); err == nil {
		s.Error("the agent answers after its end")
	}
}

func (s *suite) halfMade() {
	i := s.create()
	s.mustDestroy(i)
	s.wantEnd(i)
	if i.Start(s.Context()) == nil {
		s.Error("it could be started after its end")
	}
	i = s.create()
	s.ok("kill", i.Signal(s.Context(), sandbox.SIGKILL))
	s.wantEnd(i)
	if i.Start(s.Context()) == nil {
		s.Error("a dead one could be started")
	}
	s.mustDestroy(i)
}

func (s *suite) destroy() {
	i := s.start()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { s.mustDestroy(i) })
		wg.Go(func() { s.wantEnd(i) })
		wg.Go(func() { // whatever it answers, it must come back
			if c, err := i.Dial(s.Context()); err == nil {
				c.Close()
			}
		})
	}
	wg.Wait()
	s.mustDestroy(i)
}

func (s *suite) independent() {
	a, b := s.start(), s.start()
	if a.State().PID == b.State().PID {
		s.Error("two sandboxes share a process")
	}
	s.mustDestroy(a)
	s.wantAlive(b)
}

func (s *suite) stats() {
	spec := s.Spec(s)
	spec.Limits.MemoryBytes = 256 << 20
	i, err := s.driver.Create(s.Context(), spec)
	s.ok("create", err)
	defer s.mustDestroy(i)
	s.ok("start", i.Start(s.Context()))
	s.wantAlive(i)
	st, err := i.Stats(s.Context())
	s.ok("stats", err)
	if st.MemoryBytes <= 0 || st.MemoryBytes > spec.Limits.MemoryBytes || st.CacheBytes > st.MemoryBytes {
		s.Errorf("memory %d, of which cache %d", st.MemoryBytes, st.CacheBytes)
	}
	if st.CPUTime < 0 || st.CPUTime > deadline {
		s.Errorf("it used %s", st.CPUTime)
	}
	if c, ok := driver.As[driver.TaskCounter](i); ok {
		if n, err := c.Tasks(s.Context()); err != nil || n < 1 || n > 64 {
			s.Errorf("%d tasks, %v", n, err)
		}
	}
}

func (s *suite) probe() {
	caps, err := s.driver.Probe(s.Context())
	s.ok("probe", err)
	if s.driver.Name() == "" {
		s.Error("the driver has no name")
	}
	for _, f := range caps.Features {
		if f.Name == "" || (!f.OK && f.Fix == "") {
			s.Errorf("feature %+v does not say what to do", f)
		}
	}
}

func (s *suite) invalid() {
	for name, spoil := range map[string]func(*driver.Spec){
		"no id":          func(x *driver.Spec) { x.ID = "" },
		"malformed id":   func(x *driver.Spec) { x.ID = "../../escape" },
		"no layers":      func(x *driver.Spec) { x.Layers = nil },
		"no upper":       func(x *driver.Spec) { x.Upper = "" },
		"no work":        func(x *driver.Spec) { x.Work = "" },
		"host's own ids": func(x *driver.Spec) { x.UIDBase = 0 },
		"odd ids":        func(x *driver.Spec) { x.UIDBase++ },
		"no memory":      func(x *driver.Spec) { x.Limits.MemoryBytes = 0 },
		"no tasks":       func(x *driver.Spec) { x.Limits.PIDs = 0 },
		"no processor":   func(x *driver.Spec) { x.Limits.CPUs = -1 },
	} {
		spec := s.Spec(s)
		spoil(&spec)
		i, err := s.driver.Create(s.Context(), spec)
		if !errs.Is(err, errs.Invalid) {
			s.Errorf("%s: %v, want an error of kind invalid", name, err)
		}
		if err == nil {
			s.mustDestroy(i)
		}
	}
}

// cancelled contexts end what they were given to, and leave nothing.
func (s *suite) cancelled() {
	gone, cancel := context.WithCancel(s.Context())
	cancel()
	for range 5 {
		if i, err := s.driver.Create(gone, s.Spec(s)); err == nil {
			s.mustDestroy(i) // it may have been quicker
		}
	}
	i := s.create()
	if i.Start(gone) == nil {
		s.Error("a start nobody waits for succeeded")
	}
	if _, err := i.Wait(gone); err == nil && s.running(i) {
		s.Error("a wait nobody waits for returned before the end")
	}
	s.mustDestroy(i)
	s.wantEnd(i)
}

func (s *suite) running(i driver.Instance) bool {
	return !errors.Is(i.Signal(s.Context(), sandbox.Signal(0)), driver.ErrGone)
}

func (s *suite) recoverLiving() {
	i := s.start()
	later := s.New(s)
	again, err := later.Recover(s.Context(), s.stored(i.State()))
	s.ok("recover", err)
	if again.State() != i.State() {
		s.Errorf("recovered %+v, want %+v", again.State(), i.State())
	}
	s.wantAlive(again)
	if again.Start(s.Context()) == nil {
		s.Error("a recovered sandbox could be started")
	}
	st, err := again.Stats(s.Context())
	s.ok("stats", err)
	if st.MemoryBytes <= 0 {
		s.Errorf("the recovered sandbox has %d bytes", st.MemoryBytes)
	}
	s.mustDestroy(again)
	s.wantEnd(again)
	s.wantEnd(i)
	s.mustDestroy(again)
	_, err = again.Dial(s.Context())
	s.wantGone("dial", err)
	// One that dies of itself ends a recovered instance's wait too.
	i = s.start()
	again, err = later.Recover(s.Context(), s.stored(i.State()))
	s.ok("recover", err)
	s.ok("kill", again.Signal(s.Context(), sandbox.SIGKILL))
	s.wantEnd(again)
	s.mustDestroy(again)
}

func (s *suite) recoverGone() {
	i := s.start()
	st := s.stored(i.State())
	other := st
	other.StartTime++ // the number was given to another process
	_, err := s.driver.Recover(s.Context(), other)
	s.wantGone("recover another process", err)
	other = st
	other.PID = 0
	_, err = s.driver.Recover(s.Context(), other)
	s.wantGone("recover no process", err)
	s.wantAlive(i) // unharmed
	s.mustDestroy(i)
	_, err = s.driver.Recover(s.Context(), st)
	s.wantGone("recover a dead one", err)
}

func (s *suite) sweep() {
	kept, started, waiting := s.start(), s.start(), s.create()
	s.settled(waiting)
	later := s.New(s)
	swept, err := later.Sweep(s.Context(), []driver.State{s.stored(kept.State())})
	s.ok("sweep", err)
	words := strings.Join(swept, "\n")
	for _, i := range []driver.Instance{started, waiting} {
		if !strings.Contains(words, string(i.State().ID)) {
			s.Errorf("the sweep does not name %s: %q", i.State().ID, swept)
		}
		s.wantEnd(i)
	}
	if strings.Contains(words, string(kept.State().ID)) {
		s.Errorf("the sweep names %s, which it had to keep", kept.State().ID)
	}
	s.wantAlive(kept)
	swept, err = later.Sweep(s.Context(), []driver.State{kept.State()})
	if s.ok("sweep", err); len(swept) > 0 {
		s.Errorf("a second sweep found %q", swept)
	}
	if _, err = later.Sweep(s.Context(), nil); err != nil {
		s.Errorf("sweep everything: %v", err)
	}
	s.wantEnd(kept)
}

// settled waits until a sandbox that was only created is counted, which a driver
// may leave to the background.
func (s *suite) settled(i driver.Instance) {
	s.Helper()
	c, ok := driver.As[driver.TaskCounter](i)
	if !ok {
		return
	}
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if n, err := c.Tasks(s.Context()); err == nil && n > 0 {
			return
		}
	}
	s.Error("a created sandbox has no task")
}

func (s *suite) pause() {
	i := s.start()
	p, ok := driver.As[driver.Pauser](i)
	if !ok {
		s.Log("the driver cannot pause")
		return
	}
	s.wantAlive(i)
	for range 2 { // each is idempotent
		s.ok("freeze", p.Freeze(s.Context()))
	}
	if err := ping(s.Context(), i, 100*time.Millisecond); err == nil {
		s.Error("a frozen sandbox answers")
	}
	for range 2 {
		s.ok("thaw", p.Thaw(s.Context()))
	}
	s.wantAlive(i)
	s.ok("freeze", p.Freeze(s.Context()))
	s.mustDestroy(i)
	s.wantEnd(i)
	i = s.start()
	if p, ok = driver.As[driver.Pauser](i); !ok {
		s.Fatal("the driver cannot pause every sandbox")
	}
	s.ok("freeze", p.Freeze(s.Context()))
	swept, err := s.driver.Sweep(s.Context(), nil)
	s.ok("sweep a frozen one", err)
	if !slices.ContainsFunc(swept, func(w string) bool { return strings.Contains(w, string(i.State().ID)) }) {
		s.Errorf("swept %q", swept)
	}
}

func (s *suite) parallel() {
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]bool{}
	for range 8 {
		spec := s.Spec(s)
		wg.Go(func() {
			i, err := s.driver.Create(s.Context(), spec)
			if err != nil {
				s.Errorf("create: %v", err)
				return
			}
			defer s.mustDestroy(i)
			mu.Lock()
			if seen[i.State().PID] {
				s.Errorf("process %d belongs to two sandboxes", i.State().PID)
			}
			seen[i.State().PID] = true
			mu.Unlock()
			if err := i.Start(s.Context()); err != nil {
				s.Errorf("start: %v", err)
				return
			}
			for range 5 {
				if err := ping(s.Context(), i, deadline); err != nil {
					s.Errorf("ping: %v", err)
				}
			}
		})
	}
	wg.Wait()
}
