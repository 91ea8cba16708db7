// Package daemon is the composition root: it turns a configuration into a
// running server, and a data directory back into nothing. It owns the order in
// which parts start and end, the lock on the data directory and the one
// listener. It imports everything; only cmd/sandlot imports it.
package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/agentbin"
	"github.com/sandlot-dev/sandlot/internal/certs"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/driver/namespace"
	"github.com/sandlot-dev/sandlot/internal/edge"
	"github.com/sandlot-dev/sandlot/internal/image"
	"github.com/sandlot-dev/sandlot/internal/netns"
	"github.com/sandlot-dev/sandlot/internal/node"
	"github.com/sandlot-dev/sandlot/internal/rootfs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/slot"
	"github.com/sandlot-dev/sandlot/internal/store"
	"github.com/sandlot-dev/sandlot/internal/store/sqlite"
	"github.com/sandlot-dev/sandlot/internal/template"
)

// system is every part of a server, in the order they start.
type system struct {
	cfg    config.Config
	logger *slog.Logger
	lock   *os.File
	// domain is what clients are told, with its port.
	domain string

	ca        *certs.CA
	own       certificates // the domain's, nil if it has none of its own
	store     store.Store
	images    *image.Store
	templates *template.Registry
	uppers    *rootfs.Pool
	slots     *slot.Pool
	driver    *namespace.Driver
	network   *netns.Network
	node      *node.Node
	control   *control.Control
	edge      *edge.Edge

	undo []func(context.Context) error
}

// name tells this data directory's cgroups and tables from other servers'.
func name(dataDir string) string {
	if real, err := filepath.EvalSymlinks(dataDir); err == nil {
		dataDir = real
	}
	sum := sha256.Sum256([]byte(dataDir))
	return netns.TablePrefix + hex.EncodeToString(sum[:4])
}

func (s *system) onClose(f func(context.Context) error) { s.undo = append(s.undo, f) }

// close ends the parts in reverse order.
func (s *system) close(ctx context.Context) error {
	var all error
	for _, undo := range slices.Backward(s.undo) {
		all = errors.Join(all, undo(ctx))
	}
	s.undo = nil
	return all
}

func (s *system) path(parts ...string) string {
	return filepath.Join(append([]string{s.cfg.DataDir}, parts...)...)
}

// opener opens one part of a system.
type opener func(*system, context.Context) error

// everything is what a server needs of its data directory, hostParts what is
// needed to take its sandboxes off the host, even if its disk is broken;
// serving is what it takes to be reached as well.
var (
	hostParts  = []opener{(*system).openData, (*system).openSlots, (*system).openDriver}
	everything = []opener{
		(*system).openData, (*system).openStore, (*system).openImages, (*system).openUppers,
		(*system).openSlots, (*system).openDriver,
	}
	serving = append([]opener{(*system).openData, (*system).openCerts}, everything[1:]...)
)

// open locks the data directory and opens what lies in it. Close undoes it,
// also when open failed half-way.
func open(ctx context.Context, cfg config.Config, logger *slog.Logger, parts []opener) (*system, error) {
	s := &system{cfg: cfg, logger: logger}
	for _, part := range parts {
		if err := part(s, ctx); err != nil {
			return nil, errors.Join(err, s.close(context.WithoutCancel(ctx)))
		}
	}
	return s, nil
}

func (s *system) openData(context.Context) error {
	if err := os.MkdirAll(s.cfg.DataDir, 0o711); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := takeDir(s.cfg.DataDir); err != nil {
		return err
	}
	lock, err := lockDir(s.cfg.DataDir)
	if err != nil {
		return err
	}
	s.lock = lock
	s.onClose(func(context.Context) error { return lock.Close() })
	return nil
}

func (s *system) openStore(ctx context.Context) error {
	st, err := sqlite.Open(ctx, s.path("registry.db"))
	if err != nil {
		return fmt.Errorf("open registry: %w", err)
	}
	s.store = st
	s.onClose(func(context.Context) error { return st.Close() })
	return nil
}

func (s *system) openImages(ctx context.Context) error {
	images, err := image.Open(s.path("images"), s.logger)
	if err != nil {
		return fmt.Errorf("open images: %w", err)
	}
	s.images = images
	s.onClose(func(ctx context.Context) error { return images.Close() })
	s.templates, err = template.Open(template.Options{
		DataDir: s.cfg.DataDir, Images: images, Mirror: s.cfg.DebianMirror, Cache: os.Getenv("SANDLOT_BASE_CACHE"),
		Defaults: limits(s.cfg.Limits), Log: s.logger,
	})
	return err
}

func limits(l config.Limits) sandbox.Limits {
	return sandbox.Limits{
		CPUs: l.CPUs, MemoryBytes: int64(l.Memory), SwapBytes: int64(l.Swap), PIDs: l.PIDs, DiskBytes: int64(l.Disk),
	}.OrDefault()
}

func (s *system) openUppers(ctx context.Context) (err error) {
	s.uppers, err = rootfs.Open(ctx, rootfs.Options{Dir: s.path("pool"), Logger: s.logger})
	if err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return s.uppers.Close() })
	return nil
}

func (s *system) openSlots(context.Context) (err error) {
	s.slots, err = slot.Open(slot.DefaultDir, s.cfg.DataDir, func(n slot.Slot) bool { return netns.Exists(n.Interface()) })
	return err
}

func (s *system) openDriver(context.Context) error {
	layers := s.path("agent")
	if err := os.MkdirAll(layers, 0o711); err != nil {
		return err
	}
	layer, err := agentbin.Layer(layers)
	if err != nil {
		return fmt.Errorf("unpack agent: %w", err)
	}
	s.driver, err = namespace.New(namespace.Options{
		RunDir: s.path("run"), AgentLayer: layer, AgentPath: agentbin.Agent, BootPath: agentbin.Boot,
		CgroupParent: name(s.cfg.DataDir), Logger: s.logger,
	})
	if err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return s.driver.Close() })
	return nil
}

// start brings the engines up: the network, the node with the sandboxes of an
// earlier process, and the registry.
func (s *system) start(ctx context.Context) error {
	if err := s.startNetwork(ctx); err != nil {
		return err
	}
	opts := node.Options{
		Driver: s.driver, Images: s.images, Uppers: s.uppers, Slots: s.slots, Boxes: s.store,
		OnExit: func(id sandbox.ID) { s.control.Exited(id) }, Logger: s.logger,
		MaxProcesses: s.cfg.Limits.Processes,
	}
	if s.network != nil {
		opts.Network = s.network
	}
	if !s.cfg.Pool.Off {
		opts.PoolMax = s.cfg.Pool.Max
	}
	s.node = node.New(opts)
	s.onClose(s.node.Close)
	s.control = control.New(s.node, s.templates, s.store, control.Options{
		MaxSandboxes: s.cfg.MaxSandboxes, MaxTimeout: s.cfg.MaxTimeout.Std(), Domain: s.domain, Logger: s.logger,
		AllowInsecure: s.cfg.AllowInsecureV1,
	})
	s.onClose(func(context.Context) error { return s.control.Close() })
	if err := s.node.Recover(ctx); err != nil {
		return fmt.Errorf("recover sandboxes: %w", err)
	}
	if err := s.control.Recover(ctx); err != nil {
		return fmt.Errorf("recover registry: %w", err)
	}
	s.edge = edge.New(edge.Options{
		Registry: s.control, Dialer: s.node, Logger: s.logger,
		MaxConnections: s.cfg.Limits.Connections, MaxTotal: descriptorsOver(connectionShare),
	})
	s.onClose(func(context.Context) error { s.edge.Close(); return nil })
	return nil
}

func (s *system) startNetwork(ctx context.Context) error {
	if s.cfg.Network.Mode == "none" {
		return nil
	}
	links, err := node.Links(ctx, s.store)
	if err != nil {
		return err
	}
	s.network, err = netns.Open(ctx, netns.Options{
		Table: name(s.cfg.DataDir), Upstreams: upstreams(s.cfg.Network.DNS),
		StateFile: s.path("dns-port"), Logger: s.logger,
	}, links)
	if err != nil {
		return fmt.Errorf("set up network (network.mode = \"none\" runs sandboxes without one): %w", err)
	}
	s.onClose(s.network.Close)
	return nil
}

// upstreams adds the port of DNS where none is given.
func upstreams(servers []string) []string {
	out := make([]string, 0, len(servers))
	for _, s := range servers {
		if _, _, err := net.SplitHostPort(s); err != nil {
			s = net.JoinHostPort(strings.Trim(s, "[]"), "53")
		}
		out = append(out, s)
	}
	return out
}

// newLogger writes to w as the configuration says.
func newLogger(cfg config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // validated with the configuration
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
