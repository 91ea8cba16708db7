package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(Main(ctx, os.Args[1:], os.Stdout))
}

// options are the command line.
type options struct {
	machine, run, accel string
	binary, base        string
	memory, cpus        int
	timeout             time.Duration
}

// Main runs the command and returns its exit status.
func Main(ctx context.Context, args []string, out io.Writer) int {
	o, err := parse(args, out)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		err = o.execute(ctx, out)
	}
	if err != nil {
		fmt.Fprintln(out, "vm: error:", err)
		return 1
	}
	return 0
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("vm", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.machine, "machine", machines()[0].Name, "which machine to boot")
	flags.StringVar(&o.run, "run", "", "only suites whose name matches this regular expression")
	flags.StringVar(&o.accel, "accel", envOr("SANDLOT_VM_ACCEL", "tcg"), "QEMU accelerators to try in order, e.g. kvm,tcg")
	flags.StringVar(&o.binary, "binary", envOr("SANDLOT_BIN", "bin/sandlot"), "the binary under test")
	flags.StringVar(&o.base, "base", os.Getenv("SANDLOT_BASE_CACHE"), "the base template's cache")
	flags.IntVar(&o.memory, "memory", 3072, "memory of the machine in MiB")
	flags.IntVar(&o.cpus, "cpus", 2, "processors of the machine")
	flags.DurationVar(&o.timeout, "timeout", 30*time.Minute, "for the machine's whole run, without building its disk")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, err
}

func (o options) execute(ctx context.Context, out io.Writer) error {
	m, err := machineNamed(o.machine)
	if err != nil {
		return err
	}
	if err := need(); err != nil {
		return err
	}
	root, err := checkout()
	if err != nil {
		return err
	}
	only, err := regexp.Compile(o.run)
	if err != nil {
		return fmt.Errorf("--run: %w", err)
	}
	cache := filepath.Join(root, ".cache", "vm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(cache, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	p := payload{Root: root, Binary: o.path(root, o.binary), Base: o.path(root, o.base), Machine: m, Only: only, Out: out}
	image, err := p.make(ctx, work)
	if err != nil {
		return fmt.Errorf("prepare what the machine runs: %w", err)
	}
	start := time.Now()
	d, err := m.ready(ctx, cache, out)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "vm: disk of %s ready after %.1f s\n", m.Name, time.Since(start).Seconds())
	return o.boot(ctx, d, image, filepath.Join(cache, m.Name+".log"), out)
}

// boot runs the machine and keeps its serial line's text in log.
func (o options) boot(ctx context.Context, d disk, image, log string, out io.Writer) error {
	file, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	e := emulator{Accel: strings.Split(o.accel, ","), CPUs: o.cpus, Memory: o.memory, Log: io.MultiWriter(out, file)}
	start := time.Now()
	v, err := e.boot(ctx, d, image)
	if err == nil {
		err = v.err()
	}
	if err != nil {
		return fmt.Errorf("%w (the serial line's text is in %s)", err, log)
	}
	fmt.Fprintf(out, "vm: %s: %d passed, %d failed in %.0f s\n", o.machine, v.Passed, v.Failed, time.Since(start).Seconds())
	return nil
}

// path makes a path from the command line independent of the directory.
func (o options) path(root, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(root, path)
}

// checkout is the root of the source tree.
func checkout() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if filepath.Base(mod) != "go.mod" {
		return "", errors.New("run this inside the checkout")
	}
	return filepath.Dir(mod), nil
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
