package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sandlot-dev/sandlot/internal/agentbin"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/driver/namespace"
	"github.com/sandlot-dev/sandlot/internal/image"
	"github.com/sandlot-dev/sandlot/internal/netns"
	"github.com/sandlot-dev/sandlot/internal/rootfs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/template"
)

// Doctor tries each thing Sandlot uses of a host, by using it where that can be
// undone, in a temporary directory beside the data directory's.
func (d Daemon) Doctor(ctx context.Context, cfg config.Config) ([]driver.Feature, error) {
	features := []driver.Feature{root()}
	if !features[0].OK {
		return append(features, programs()...), nil
	}
	if err := EnterPrivateMounts(); err != nil {
		return nil, err
	}
	// What works depends on the file system: try on the data directory's own.
	dir, err := os.MkdirTemp(existing(cfg.DataDir), "sandlot-doctor-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	logger := slog.New(slog.DiscardHandler)
	features = append(features, programs()...)
	features = append(features, imageFeature(dir, logger), poolFeature(ctx, dir, logger))
	features = append(features, launchFeatures(ctx, dir, logger)...)
	return append(features, networkFeature(ctx, cfg, dir, logger), firewallFeature(), trustFeature(cfg)), nil
}

// existing returns dir or its nearest parent that exists.
func existing(dir string) string {
	for dir != "/" {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

func root() driver.Feature {
	f := driver.Feature{Name: "root", OK: os.Geteuid() == 0, Required: true, Detail: "the server runs as root"}
	if !f.OK {
		f.Detail, f.Cost, f.Fix = "", "nothing else can be tried", "run sandlot as root (sudo sandlot doctor)"
	}
	return f
}

func programs() []driver.Feature {
	out := make([]driver.Feature, 0, 4)
	for _, r := range template.Requirements() {
		out = append(out, program(r.Program, r.Package, r.Why))
	}
	return append(out, program("mkfs.btrfs", "btrfs-progs", "makes the pool that limits what sandboxes write"))
}

func program(name, pkg, why string) driver.Feature {
	f := driver.Feature{Name: filepath.Base(name), Detail: why}
	if filepath.IsAbs(name) {
		_, err := os.Stat(name)
		f.OK = err == nil
	} else {
		_, err := exec.LookPath(name)
		f.OK = err == nil
	}
	if !f.OK {
		f.Cost, f.Fix = why, "install the package "+pkg
	}
	return f
}

func imageFeature(dir string, logger *slog.Logger) driver.Feature {
	f := driver.Feature{Name: "images from one file (EROFS)"}
	images, err := image.Open(filepath.Join(dir, "images"), logger)
	if err == nil {
		f.OK = images.Format() == image.EROFS
		err = images.Close()
	}
	f.Detail = detail(err)
	if !f.OK {
		f.Cost = "images are kept as directories: slower to make, no other difference"
		f.Fix = "a kernel of 6.12 or newer with CONFIG_EROFS_FS_BACKED_BY_FILE, and a data directory that is not on tmpfs"
	}
	return f
}

func poolFeature(ctx context.Context, dir string, logger *slog.Logger) driver.Feature {
	f := driver.Feature{Name: "disk limits (btrfs simple quotas)"}
	pool, err := rootfs.Open(ctx, rootfs.Options{Dir: filepath.Join(dir, "pool"), SizeBytes: 1 << 30, Logger: logger})
	if err == nil {
		f.OK, f.Detail = pool.Enforced(), pool.Describe()
		err = pool.Close()
	}
	if err != nil {
		f.OK, f.Detail = false, err.Error()
	}
	if !f.OK {
		f.Cost = "a sandbox may fill the disk: limits on its size are not enforced"
		f.Fix = "a kernel of 6.7 or newer with btrfs, and the package btrfs-progs"
	}
	return f
}

// launchFeatures makes the driver and starts a sandbox with nothing in it but
// the agent.
func launchFeatures(ctx context.Context, dir string, logger *slog.Logger) []driver.Feature {
	launch := driver.Feature{Name: "launch of a sandbox", Required: true}
	layers := filepath.Join(dir, "agent")
	err := os.MkdirAll(layers, 0o711)
	layer := ""
	if err == nil {
		layer, err = agentbin.Layer(layers)
	}
	var drv *namespace.Driver
	if err == nil {
		drv, err = namespace.New(namespace.Options{
			RunDir: filepath.Join(dir, "run"), AgentLayer: layer, AgentPath: agentbin.Agent, BootPath: agentbin.Boot,
			CgroupParent: name(dir), Logger: logger,
		})
	}
	if err != nil {
		launch.Detail, launch.Cost, launch.Fix = err.Error(), "no sandbox can start", "see the detail"
		return []driver.Feature{launch}
	}
	caps, _ := drv.Probe(ctx) // its features say the same
	if err := errors.Join(tryLaunch(ctx, drv, dir), drv.Close()); err != nil {
		launch.Detail, launch.Cost, launch.Fix = err.Error(), "no sandbox can start", "see the features above and the detail"
	} else {
		launch.OK, launch.Detail = true, "namespaces, id-mapped overlay, cgroup, seccomp, agent"
	}
	return append(caps.Features, launch)
}

func tryLaunch(ctx context.Context, drv *namespace.Driver, dir string) error {
	lower, box := filepath.Join(dir, "lower"), filepath.Join(dir, "box")
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(filepath.Join(lower, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"up", "work"} {
		if err := os.MkdirAll(filepath.Join(box, d), 0o755); err != nil {
			return err
		}
	}
	i, err := drv.Create(ctx, driver.Spec{
		ID: sandbox.NewID(), Layers: []string{lower}, Upper: filepath.Join(box, "up"), Work: filepath.Join(box, "work"),
		UIDBase: 0x60000000, Hostname: "doctor", Limits: sandbox.DefaultLimits(),
	})
	if err != nil {
		return err
	}
	err = i.Start(ctx)
	_, sweep := drv.Sweep(ctx, []driver.State{i.State()})
	return errors.Join(err, i.Destroy(context.WithoutCancel(ctx)), sweep, last(drv.Sweep(ctx, nil)))
}

func last(_ []string, err error) error { return err }

func networkFeature(ctx context.Context, cfg config.Config, dir string, logger *slog.Logger) driver.Feature {
	f := driver.Feature{Name: "network (veth, nftables, forwarding)", Required: cfg.Network.Mode == "nat"}
	n, err := netns.Open(ctx, netns.Options{Table: name(dir), Logger: logger}, nil)
	if err == nil {
		err = errors.Join(n.Close(ctx), netns.RemoveTable(name(dir)), netns.RestoreForwarding())
	}
	f.OK, f.Detail = err == nil, detail(err)
	if !f.OK {
		f.Cost = "sandboxes have no network"
		f.Fix = "a kernel with nf_tables, nft_nat and veth; or set network.mode to none"
	}
	return f
}

// firewallFeature looks for another program's firewall that would drop what
// sandboxes send: accepting a packet in one table does not save it from another.
func firewallFeature() driver.Feature {
	blocked, found := netns.ForwardBlocked()
	f := driver.Feature{Name: "no firewall in the way", OK: !blocked, Detail: found}
	if blocked {
		f.Cost = "sandboxes do not reach the outside"
		f.Fix = "let the firewall forward what comes from interfaces named sl*; README.md, \"Beside Docker or ufw\", has the lines"
	}
	return f
}

func detail(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
