// Package config is what a Sandlot server can be told: one struct, its
// defaults, and where each value came from. Later sources win: defaults, then
// the file, then SANDLOT_* variables, then flags. It owns the types Size and
// Duration, which read and print values as people write them. It imports errs
// and a TOML parser only; anyone may import it.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Config is everything a server can be told. Start from Default: a zero Config
// does not validate.
type Config struct {
	// Addr is the one listener's address, host:port. Hosts other than loopback
	// are reachable from outside.
	Addr string `toml:"addr"`
	// DataDir holds everything the server keeps. One server uses it at a time.
	DataDir string `toml:"data_dir"`
	// Domain is the name under which ports of sandboxes are published as
	// <port>-<id>.<domain>, with the port clients are to use if it is not the
	// listener's; empty means localhost.
	Domain string `toml:"domain"`
	// Driver names what isolates sandboxes.
	Driver string `toml:"driver"`
	// MaxSandboxes bounds how many sandboxes exist at once. Zero: Derive sets it.
	MaxSandboxes int `toml:"max_sandboxes"`
	// MaxTimeout bounds the time to live a client may ask for.
	MaxTimeout Duration `toml:"max_timeout"`
	// AllowInsecureV1 leaves the data plane of sandboxes open that were made by a
	// create of version 1 without "secure": true, as E2B does.
	AllowInsecureV1 bool `toml:"allow_insecure_v1"`
	// DebianMirror is where the base template's packages come from; empty means
	// the host's own apt configuration.
	DebianMirror string `toml:"debian_mirror"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `toml:"log_level"`
	// LogFormat is text or json.
	LogFormat string `toml:"log_format"`

	Pool    Pool    `toml:"pool"`
	Limits  Limits  `toml:"limits"`
	Network Network `toml:"network"`
	TLS     TLS     `toml:"tls"`
	DNS     DNS     `toml:"dns"`
}

// Pool says how many started sandboxes may wait for a create.
type Pool struct {
	// Off makes every create launch its sandbox.
	Off bool `toml:"off"`
	// Max is the ceiling for each template. Zero: Derive sets it.
	Max int `toml:"max"`
}

// Limits are those of templates that name none.
type Limits struct {
	CPUs   int   `toml:"cpus"`
	Memory Size  `toml:"memory"`
	Swap   Size  `toml:"swap"`
	PIDs   int64 `toml:"pids"`
	Disk   Size  `toml:"disk"`
	// Connections bounds how many requests and WebSockets may be open at once to
	// the ports of one sandbox, and again as many to its agent.
	Connections int `toml:"connections"`
	// Processes is how many processes started through the API may run at once in
	// one sandbox; 0 is any number.
	Processes int `toml:"processes"`
}

// Network is what sandboxes can reach.
type Network struct {
	// Mode is nat (outwards through the host) or none (loopback only).
	Mode string `toml:"mode"`
	// DNS are the servers asked for names, address or address:port; empty means
	// the host's own.
	DNS []string `toml:"dns"`
}

// Default returns the configuration of a server that was told nothing.
func Default() Config {
	return Config{
		Addr:       "127.0.0.1:7280",
		DataDir:    "/var/lib/sandlot",
		Driver:     "namespace",
		MaxTimeout: 30 * Day,
		LogLevel:   "info",
		LogFormat:  "text",
		Limits:     Limits{CPUs: 2, Memory: 1 * GiB, PIDs: 1024, Disk: 10 * GiB, Connections: 1024},
		Network:    Network{Mode: "nat"},
	}
}

const (
	// memoryPerSandbox is set aside for each sandbox when the ceiling is
	// derived: four times what an idle one may cost, since busy ones use more.
	memoryPerSandbox = 16 * MiB
	// poolShare is the part of the ceiling that may wait in the pool.
	poolShare, poolMost = 16, 32
)

// The most that can be asked for: what the host's numbers allow (sandboxes have
// user ids and addresses of their own, the kernel counts to 2^22 tasks), or
// what no host has, far from where arithmetic overflows.
const (
	maxSandboxes = 8192
	maxTimeout   = 36500 * Day
	maxCPUs      = 1024
	maxPIDs      = 1 << 22
	maxSize      = 1024 * TiB

	maxConnections = 1 << 16 // no address has more ports to connect from
)

// Derive replaces the zeros that mean "decide for me" by values for a host
// with memory bytes of RAM. Doing it again changes nothing.
func (c *Config) Derive(memory int64) {
	if c.MaxSandboxes == 0 {
		c.MaxSandboxes = int(min(maxSandboxes, max(8, memory/int64(memoryPerSandbox))))
	}
	if c.Pool.Max == 0 {
		c.Pool.Max = min(poolMost, max(1, c.MaxSandboxes/poolShare))
	}
}

// Validate returns every mistake in c, joined, as one error of kind Invalid.
// Each names its key.
func (c *Config) Validate() error {
	problems := []error{
		keyed("addr", checkAddr(c.Addr)),
		keyed("data_dir", checkDataDir(c.DataDir)),
		keyed("domain", checkDomain(c.Domain)),
		keyed("driver", oneOf(c.Driver, "namespace")),
		keyed("max_sandboxes", within(c.MaxSandboxes, 0, maxSandboxes)),
		keyed("max_timeout", within(c.MaxTimeout, Duration(time.Second), maxTimeout)),
		keyed("log_level", oneOf(c.LogLevel, "debug", "info", "warn", "error")),
		keyed("log_format", oneOf(c.LogFormat, "text", "json")),
		keyed("pool.max", within(c.Pool.Max, 0, maxSandboxes)),
		keyed("limits.cpus", within(c.Limits.CPUs, 1, maxCPUs)),
		keyed("limits.memory", within(c.Limits.Memory, 16*MiB, maxSize)),
		keyed("limits.swap", within(c.Limits.Swap, 0, maxSize)),
		keyed("limits.pids", within(c.Limits.PIDs, 16, maxPIDs)),
		keyed("limits.disk", within(c.Limits.Disk, 16*MiB, maxSize)),
		keyed("limits.processes", within(c.Limits.Processes, 0, maxPIDs)),
		keyed("limits.connections", within(c.Limits.Connections, 1, maxConnections)),
		keyed("network.mode", oneOf(c.Network.Mode, "nat", "none")),
	}
	problems = append(problems, c.checkNames()...)
	for _, server := range c.Network.DNS {
		problems = append(problems, keyed("network.dns", checkDNS(server)))
	}
	if err := errors.Join(problems...); err != nil {
		return errs.New(errs.Invalid, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}

func keyed(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", key, err)
}

func checkAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no usable port", addr)
	}
	return nil
}

func checkDataDir(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
		return fmt.Errorf("%q is not an absolute path of a directory to keep data in", dir)
	}
	return nil
}

func checkDNS(server string) error {
	if _, err := netip.ParseAddr(server); err == nil {
		return nil
	}
	if _, err := netip.ParseAddrPort(server); err == nil {
		return nil
	}
	return fmt.Errorf("%q is not an IP address", server)
}

func oneOf(value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%q is not one of %s", value, strings.Join(allowed, ", "))
}

func within[T int | int64 | Size | Duration](value, least, most T) error {
	if value < least {
		return fmt.Errorf("%v is less than %v", value, least)
	}
	if value > most {
		return fmt.Errorf("%v is more than %v", value, most)
	}
	return nil
}
