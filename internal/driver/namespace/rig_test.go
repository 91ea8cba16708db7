package namespace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/driver/drivertest"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// place is a cgroup parent, an agent and directories for any number of drivers.
type place struct{ parent, run, agent string }

func newPlace(t testing.TB) place {
	t.Helper()
	testreq.Root(t)
	run, err := os.MkdirTemp("/var/tmp", "sandlot-run-") // not /tmp: it may be in memory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	return place{parent: "sandlot-test-" + filepath.Base(run), run: run, agent: drivertest.AgentLayer(t)}
}

func (p place) options() Options {
	return Options{
		RunDir: p.run, AgentLayer: p.agent, AgentPath: drivertest.AgentPath, BootPath: drivertest.BootPath,
		CgroupParent: p.parent, Logger: slog.New(slog.DiscardHandler),
	}
}

// driver returns one that ends with the test, and takes the parent along.
func (p place) driver(t testing.TB) *Driver {
	t.Helper()
	d, err := New(p.options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		d.cgroups.removeParent()
	})
	return d
}

// left names the sandboxes' cgroups, by the length of their ids: on cgroup v2
// files of the parent begin with an i too.
func (p place) left(testing.TB) []string {
	a, _ := filepath.Glob("/sys/fs/cgroup/" + p.parent + "/i???????????????????")
	b, _ := filepath.Glob("/sys/fs/cgroup/*/" + p.parent + "/i???????????????????")
	return append(a, b...)
}

func TestDriver(t *testing.T) {
	p := newPlace(t)
	root := drivertest.RootLayer(t)
	drivertest.Run(t, drivertest.Options{
		New:  func(t testing.TB) driver.Driver { return p.driver(t) },
		Spec: func(t testing.TB) driver.Spec { return drivertest.Spec(t, root) },
		Left: p.left,
	})
}

// crashVar makes this test binary a server that creates a sandbox, says its
// process id, and waits for its own end.
const crashVar = "SANDLOT_TEST_CRASH"

func TestMain(m *testing.M) {
	if place := os.Getenv(crashVar); place != "" {
		if err := createAndHang(place); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func createAndHang(text string) error {
	var job struct {
		Options Options
		Spec    driver.Spec
		Start   bool
	}
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return err
	}
	d, err := New(job.Options)
	if err != nil {
		return err
	}
	i, err := d.Create(context.Background(), job.Spec)
	if err == nil && job.Start {
		err = i.Start(context.Background())
	}
	if err != nil {
		return err
	}
	state, err := json.Marshal(i.State())
	if err != nil {
		return err
	}
	fmt.Println(string(state)) //nolint:forbidigo // the parent reads it
	select {}
}

// A server that dies between creating and starting a sandbox leaves nothing
// running: the waiting process sees its pipe end. One that dies later leaves
// the sandbox to its successor.
func TestServerDies(t *testing.T) {
	p := newPlace(t)
	root := drivertest.RootLayer(t)
	for name, start := range map[string]bool{"before start": false, "after start": true} {
		t.Run(name, func(t *testing.T) {
			state := p.dieWithSandbox(t, drivertest.Spec(t, root), start)
			d := p.driver(t)
			i, err := d.Recover(t.Context(), state)
			if start {
				if err != nil {
					t.Fatalf("the sandbox did not outlive its server: %v", err)
				}
				if _, err := i.Dial(t.Context()); err != nil {
					t.Error(err)
				}
			} else {
				for end := time.Now().Add(5 * time.Second); err == nil || !errors.Is(err, driver.ErrGone); {
					if time.Now().After(end) {
						t.Fatalf("the waiting process did not end: %v", err)
					}
					time.Sleep(5 * time.Millisecond)
					_, err = d.Recover(t.Context(), state)
				}
			}
			if _, err := d.Sweep(t.Context(), nil); err != nil {
				t.Error(err)
			}
			if left := p.left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if _, err := d.Recover(t.Context(), state); !errors.Is(err, driver.ErrGone) {
				t.Errorf("recover after the sweep: %v", err)
			}
		})
	}
}

// dieWithSandbox runs a server in a process of its own, kills it once it has a
// sandbox, and returns the sandbox's state.
func (p place) dieWithSandbox(t *testing.T, spec driver.Spec, start bool) (state driver.State) {
	t.Helper()
	opts := p.options()
	opts.Logger = nil
	job, err := json.Marshal(map[string]any{"Options": opts, "Spec": spec, "Start": start})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), crashVar+"="+string(job))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err = json.NewDecoder(out).Decode(&state)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return state
}
