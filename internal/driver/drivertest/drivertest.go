// Package drivertest is the suite every isolation driver passes, and what
// tests of real drivers are made from: the agent as a layer, and a small root
// file system. Only tests import it.
//
// A driver joins with one test, here one that needs root and the real agent:
//
//	func TestDriver(t *testing.T) {
//		testreq.Root(t)
//		agent, root := drivertest.AgentLayer(t), drivertest.RootLayer(t)
//		drivertest.Run(t, drivertest.Options{
//			New: func(t testing.TB) driver.Driver {
//				d, err := mydriver.New(mydriver.Options{Agent: agent, Group: "mydriver-test"})
//				if err != nil {
//					t.Fatal(err)
//				}
//				t.Cleanup(func() { _ = d.Close() })
//				return d
//			},
//			Spec: func(t testing.TB) driver.Spec {
//				return drivertest.Spec(t, root)
//			},
//			Left: func(t testing.TB) []string {
//				left, _ := filepath.Glob("/sys/fs/cgroup/mydriver-test/*")
//				return left
//			},
//		})
//	}
//
// The agent that answers must serve /health as the real one does; a fake may
// serve it from within the test.
package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/agentclient"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Options say how to make the driver under test and what it works with.
type Options struct {
	// New returns a driver that ends with the test. All that it returns in one
	// Run share their state on the host, as servers that follow each other do.
	New func(testing.TB) driver.Driver
	// Spec returns a valid spec that no other sandbox has anything of.
	Spec func(testing.TB) driver.Spec
	// Left names what the driver still holds on the host; nil means there is no
	// way to tell.
	Left func(testing.TB) []string
}

// deadline bounds everything that should happen soon.
const deadline = 10 * time.Second

// Run proves that a driver keeps its contract. Its tests run one after the
// other, since Sweep concerns all sandboxes of a host.
func Run(t *testing.T, o Options) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"Life", (*suite).life},
		{"NothingRunsBeforeStart", (*suite).waits},
		{"Kill", (*suite).kill},
		{"HalfMade", (*suite).halfMade},
		{"Destroy", (*suite).destroy},
		{"Independent", (*suite).independent},
		{"Stats", (*suite).stats},
		{"Probe", (*suite).probe},
		{"Invalid", (*suite).invalid},
		{"Cancelled", (*suite).cancelled},
		{"RecoverLiving", (*suite).recoverLiving},
		{"RecoverGone", (*suite).recoverGone},
		{"Sweep", (*suite).sweep},
		{"Pause", (*suite).pause},
		{"Parallel", (*suite).parallel},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{T: t, Options: o}
			s.driver = o.New(t)
			s.wantNothing() // first of all, so that it is looked at last
			c.test(s)
		})
	}
}

// Spec returns a spec with a fresh ID, range of user ids and directories on the
// file system of /var/tmp, which are removed when the test ends.
func Spec(t testing.TB, layers ...string) driver.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "sandlot-upper-") // /tmp may be in memory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := driver.Spec{
		ID: sandbox.NewID(), Layers: layers, Upper: filepath.Join(dir, "up"), Work: filepath.Join(dir, "work"),
		UIDBase: 0x50000000 + bases.Add(1)%512*driver.UIDRange, Hostname: "sandbox", Limits: sandbox.DefaultLimits(),
	}
	for _, d := range []string{s.Upper, s.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// bases counts ranges of user ids, below those that servers hand out.
var bases atomic.Uint32

// suite is one test of Run.
type suite struct {
	*testing.T
	Options
	driver driver.Driver
}

func (s *suite) ok(what string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// create makes an instance that ends with the test at the latest.
func (s *suite) create() driver.Instance {
	s.Helper()
	i, err := s.driver.Create(s.Context(), s.Spec(s))
	s.ok("create", err)
	s.Cleanup(func() { s.mustDestroy(i) })
	return i
}

func (s *suite) start() driver.Instance {
	s.Helper()
	i := s.create()
	s.ok("start", i.Start(s.Context()))
	return i
}

func (s *suite) mustDestroy(i driver.Instance) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := i.Destroy(ctx); err != nil {
		s.Errorf("destroy: %v", err)
	}
}

// ping asks the agent whether it is well.
func ping(ctx context.Context, i driver.Instance, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := agentclient.New(func(ctx context.Context) (net.Conn, error) { return i.Dial(ctx) })
	defer c.Close()
	return c.Ping(ctx)
}

func (s *suite) wantAlive(i driver.Instance) {
	s.Helper()
	s.ok("ping", ping(s.Context(), i, deadline))
}

// wantEnd waits for the end of a sandbox.
func (s *suite) wantEnd(i driver.Instance) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), deadline)
	defer cancel()
	exit, err := i.Wait(ctx)
	s.ok("wait for the end", err)
	if since := time.Since(exit.At); since < 0 || since > time.Minute {
		s.Errorf("it ended at %s", exit.At)
	}
}

func (s *suite) wantGone(what string, err error) {
	s.Helper()
	if !errors.Is(err, driver.ErrGone) {
		s.Errorf("%s: %v, want ErrGone", what, err)
	}
}

// wantNothing looks, when the test has destroyed what it made, at what is left,
// and gives the kernel a moment.
func (s *suite) wantNothing() {
	s.Helper()
	if s.Left == nil {
		return
	}
	s.Cleanup(func() {
		for end := time.Now().Add(deadline); ; time.Sleep(10 * time.Millisecond) {
			left := s.Left(s)
			if len(left) == 0 {
				return
			}
			if time.Now().After(end) {
				s.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
				return
			}
		}
	})
}

// stored returns what a state is after it was stored.
func (s *suite) stored(st driver.State) (out driver.State) {
	s.Helper()
	data, err := json.Marshal(st)
	s.ok("encode state", err)
	s.ok("decode state", json.Unmarshal(data, &out))
	return out
}
