// Package bench measures a running server beside what the machine itself can
// do at best, in the same run. It owns the rows of the speed table, their
// targets (docs/architecture.md gives the reasons) and the statistics. It uses
// the public client; only cli imports it.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Options say what to measure.
type Options struct {
	// Client speaks to the server, which should be on this machine.
	Client *client.Client
	// Only names the rows to measure; empty means all.
	Only []string
	// Quick takes fewer samples.
	Quick bool
	// Progress gets a line per row.
	Progress io.Writer
}

// Report is the outcome. The names of its JSON fields are stable.
type Report struct {
	Server  string    `json:"server"`
	Started time.Time `json:"started"`
	Host    Host      `json:"host"`
	Rows    []Row     `json:"rows"`
}

// Host is where the figures were taken.
type Host struct {
	CPUs   int    `json:"cpus"`
	Kernel string `json:"kernel"`
	// MemoryMiB is the RAM.
	MemoryMiB int64 `json:"memory_mib"`
	// LoadBefore and LoadAfter are the load averages over one minute: what else
	// ran shows in the figures.
	LoadBefore float64 `json:"load_before"`
	LoadAfter  float64 `json:"load_after"`
}

// Verdict says how a row stands to its target.
type Verdict string

// The verdicts.
const (
	Meets    Verdict = "meets"
	Misses   Verdict = "misses"
	NoTarget Verdict = "no target"
	Skipped  Verdict = "skipped"
	Failed   Verdict = "failed"
)

// Row is one line of the table.
type Row struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Unit is of all figures but the value of rates: "ms", "MiB", "MB/s" or
	// "entries/s".
	Unit string `json:"unit"`
	Summary
	// Value is what the target is compared with: the median, or for rates the
	// rate per second.
	Value float64 `json:"value"`
	// ValueUnit is Unit, or "/s" for rates.
	ValueUnit string `json:"value_unit"`
	// Target is the bound of Value; zero means none. It is a ceiling, for what
	// is counted per second a least value.
	Target float64 `json:"target"`
	// Floor is what the machine itself or a rival did, in Unit, sampled in turn
	// with the row; FloorTitle says which. Nil where there is none.
	Floor      *Summary `json:"floor"`
	FloorTitle string   `json:"floor_title,omitempty"`
	Verdict    Verdict  `json:"verdict"`
	Note       string   `json:"note,omitempty"`
}

// perSecond reports whether more is better.
func perSecond(unit string) bool { return strings.HasSuffix(unit, "/s") }

// spec is a row before it is measured.
type spec struct {
	name, title string
	target      float64
	// floors makes the target a multiple of the floor's median.
	floors bool
	// floor says what the floor is, if not the usual one.
	floor string
	// rate is of rows whose samples are times, but whose value is a rate.
	rate bool
	// unit is of the samples; empty for "ms".
	unit string
	run  func(context.Context, *bench) (outcome, error)
}

// outcome is what measuring a row gave.
type outcome struct {
	samples, floor []float64
	// rate is set by rates.
	rate float64
	note string
}

// bench is one run.
type bench struct {
	opts  Options
	fleet *fleet
}

// pick returns n, or few in a quick run.
func (b *bench) pick(n, few int) int {
	if b.opts.Quick {
		return few
	}
	return n
}

// RowNames lists the rows, separated by commas.
func RowNames() string {
	var names []string
	for _, s := range specs() {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// Run measures. It removes every sandbox it made before it returns, also when
// ctx ends. A row that cannot be measured does not stop the others.
func Run(ctx context.Context, opts Options) (report *Report, err error) {
	rows, err := choose(opts.Only)
	if err != nil {
		return nil, err
	}
	if err := opts.Client.Health(ctx); err != nil {
		return nil, err
	}
	b := &bench{opts: opts, fleet: newFleet(opts.Client)}
	defer func() { err = errors.Join(err, b.fleet.close(ctx)) }()
	report = &Report{Server: opts.Client.APIURL(), Started: time.Now().UTC(), Host: host()}
	for i, s := range rows {
		_, _ = fmt.Fprintf(opts.Progress, "[%d/%d] %s\n", i+1, len(rows), s.title)
		row := b.measure(ctx, s)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("measurement stopped: %w", context.Cause(ctx))
		}
		report.Rows = append(report.Rows, row)
	}
	report.Host.LoadAfter = load()
	return report, nil
}

func choose(only []string) ([]spec, error) {
	all := specs()
	if len(only) == 0 {
		return all, nil
	}
	for _, name := range only {
		if !slices.ContainsFunc(all, func(s spec) bool { return s.name == name }) {
			return nil, errs.New(errs.Invalid, "there is no row %q", name).WithHint("the rows are: %s", RowNames())
		}
	}
	return slices.DeleteFunc(all, func(s spec) bool { return !slices.Contains(only, s.name) }), nil
}

// skip is returned by rows that have nothing to measure here.
type skip string

// Error gives the reason.
func (s skip) Error() string { return string(s) }

func (b *bench) measure(ctx context.Context, s spec) Row {
	row := Row{Name: s.name, Title: s.title, Unit: cmp.Or(s.unit, "ms"), Target: s.target}
	row.ValueUnit = row.Unit
	if s.rate {
		row.ValueUnit = "/s"
	}
	out, err := s.run(ctx, b)
	b.fleet.settle(ctx)
	row.Note = out.note
	if reason, ok := errors.AsType[skip](err); ok {
		row.Verdict, row.Note = Skipped, string(reason)
		return row
	}
	if err != nil {
		row.Verdict, row.Note = Failed, err.Error()
		return row
	}
	return s.judge(row, out)
}

// judge fills in the figures and compares them with the target.
func (s spec) judge(row Row, out outcome) Row {
	row.Summary = Summarize(out.samples)
	row.Value = row.P50
	if s.rate {
		row.Value = out.rate
	}
	if len(out.floor) > 0 {
		floor := Summarize(out.floor)
		row.Floor, row.FloorTitle = &floor, cmp.Or(s.floor, usualFloor)
		if s.floors {
			row.Target = s.target * floor.P50
		}
	}
	least := perSecond(row.ValueUnit)
	switch {
	case s.floors && row.Floor == nil:
		row.Verdict, row.Target = NoTarget, 0
	case row.Target == 0:
		row.Verdict = NoTarget
	case least && row.Value >= row.Target, !least && row.Value <= row.Target:
		row.Verdict = Meets
	default:
		row.Verdict = Misses
	}
	return row
}

func host() Host {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	h := Host{CPUs: runtime.NumCPU(), Kernel: strings.TrimSpace(string(kernel)), LoadBefore: load()}
	if total, err := meminfo("MemTotal"); err == nil {
		h.MemoryMiB = total >> 20
	}
	return h
}

// load returns the load average of the last minute, 0 if it is unknown.
func load() float64 {
	text, _ := os.ReadFile("/proc/loadavg")
	var one float64
	_, _ = fmt.Sscan(string(text), &one)
	return one
}
