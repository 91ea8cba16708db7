package namespace

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

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

// driver returns one that ends with the test, and takes the parent along.
func (p place) driver(t testing.TB) *Driver {
	t.Helper()
	d, err := New(Options{
		RunDir: p.run, AgentLayer: p.agent, AgentPath: drivertest.AgentPath, BootPath: drivertest.BootPath, CgroupParent: p.parent,
		Logger: slog.New(slog.DiscardHandler),
	})
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

// left names the sandboxes' cgroups.
func (p place) left(testing.TB) []string {
	a, _ := filepath.Glob("/sys/fs/cgroup/" + p.parent + "/i*")
	b, _ := filepath.Glob("/sys/fs/cgroup/*/" + p.parent + "/i*")
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
