package bench

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/clienttest"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func TestSummarize(t *testing.T) {
	count := func(n int) []float64 {
		s := make([]float64, n)
		for i := range s {
			s[i] = float64(n - i) // n down to 1
		}
		return s
	}
	for _, tt := range []struct {
		name    string
		samples []float64
		want    Summary
	}{
		{"none", nil, Summary{}},
		{"one", []float64{7}, Summary{1, 7, 7, 7, 7}},
		{"two", []float64{3, 1}, Summary{2, 1, 1, 3, 3}},
		{"three", []float64{3, 1, 2}, Summary{3, 1, 2, 3, 3}},
		{"twenty", count(20), Summary{20, 1, 10, 19, 20}},
		{"hundred", count(100), Summary{100, 1, 50, 95, 99}},
		{"thousand", count(1000), Summary{1000, 1, 500, 950, 990}},
	} {
		before := slices.Clone(tt.samples)
		if diff := cmp.Diff(tt.want, Summarize(tt.samples)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if !slices.Equal(before, tt.samples) {
			t.Errorf("%s: the samples were reordered", tt.name)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name   string
		spec   spec
		out    outcome
		want   Verdict
		target float64
	}{
		{"below the ceiling", spec{target: 3}, outcome{samples: []float64{2, 3, 9}}, Meets, 3},
		{"above the ceiling", spec{target: 3}, outcome{samples: []float64{2, 4, 9}}, Misses, 3},
		{"within twice the floor", spec{target: 2, floors: true}, outcome{samples: []float64{1}, floor: []float64{0.5}}, Meets, 1},
		{"beyond twice the floor", spec{target: 2, floors: true}, outcome{samples: []float64{1.01}, floor: []float64{0.5}}, Misses, 1},
		{"fast enough", spec{target: 60, rate: true}, outcome{samples: []float64{1}, rate: 61}, Meets, 60},
		{"too slow", spec{target: 60, rate: true}, outcome{samples: []float64{1}, rate: 59}, Misses, 60},
		{"nothing to reach", spec{}, outcome{samples: []float64{1}}, NoTarget, 0},
		{"half of the rival", spec{target: 0.5, floors: true, unit: "MB/s"}, outcome{samples: []float64{50}, floor: []float64{100}}, Meets, 50},
		{"less than half", spec{target: 0.5, floors: true, unit: "MB/s"}, outcome{samples: []float64{49}, floor: []float64{100}}, Misses, 50},
		{"no rival here", spec{target: 0.5, floors: true, unit: "MB/s"}, outcome{samples: []float64{49}}, NoTarget, 0},
	} {
		row := Row{Target: tt.spec.target, ValueUnit: tt.spec.unit}
		if tt.spec.rate {
			row.ValueUnit = "/s"
		}
		row = tt.spec.judge(row, tt.out)
		if row.Verdict != tt.want || row.Target != tt.target {
			t.Errorf("%s: %s with target %v, want %s with %v", tt.name, row.Verdict, row.Target, tt.want, tt.target)
		}
	}
}

func connect(t *testing.T) (*clienttest.Server, Options) {
	t.Helper()
	server := clienttest.New(t)
	c, err := client.New(client.Options{APIURL: server.URL, APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return server, Options{Client: c, Quick: true, Progress: io.Discard}
}

func TestRunMeasuresAndCleansUp(t *testing.T) {
	t.Parallel()
	server, opts := connect(t)
	opts.Only = []string{"create-hot", "command", "sustained-4", "burst", "memory-500"}
	stranger, err := opts.Client.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	report, err := Run(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if left := server.IDs(); !slices.Equal(left, []string{stranger.ID}) {
		t.Errorf("left behind: %v, want only %s", left, stranger.ID)
	}
	var got []string
	for _, row := range report.Rows {
		got = append(got, row.Name)
		if row.Verdict == Failed || (row.Verdict == Skipped) != (row.Name == "memory-500") {
			t.Errorf("%s: %s (%s)", row.Name, row.Verdict, row.Note)
		}
	}
	if diff := cmp.Diff(opts.Only, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	var table bytes.Buffer
	if err := report.WriteTable(&table); err != nil || !strings.Contains(table.String(), "create-hot") || !strings.Contains(table.String(), "left out by --quick") {
		t.Errorf("table: %v\n%s", err, table.String())
	}
}

// The names of the fields are what comparisons over time rely on.
func TestReportFieldsAreStable(t *testing.T) {
	floor := Summary{1, 2, 3, 4, 5}
	text, err := json.Marshal(Report{Rows: []Row{{Name: "n", Unit: "ms", ValueUnit: "ms", Summary: floor, Floor: &floor, Note: "x"}}})
	want := `{"server":"","started":"0001-01-01T00:00:00Z",` +
		`"host":{"cpus":0,"kernel":"","memory_mib":0,"load_before":0,"load_after":0},` +
		`"rows":[{"name":"n","title":"","unit":"ms","n":1,"min":2,"p50":3,"p95":4,"p99":5,"value":0,"value_unit":"ms",` +
		`"target":0,"floor":{"n":1,"min":2,"p50":3,"p95":4,"p99":5},"verdict":"","note":"x"}]}`
	if diff := cmp.Diff(want, string(text)); diff != "" || err != nil {
		t.Errorf("report (-want +got): %v\n%s", err, diff)
	}
}

func TestInterruptedRunCleansUp(t *testing.T) {
	t.Parallel()
	server, opts := connect(t)
	opts.Only, opts.Quick = []string{"memory-100"}, false
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("interrupt")
	go func() {
		for len(server.IDs()) < 20 {
			runtime.Gosched()
		}
		cancel(reason)
	}()
	if _, err := Run(ctx, opts); !errors.Is(err, reason) {
		t.Errorf("Run = %v, want %v", err, reason)
	}
	if left := server.IDs(); len(left) > 0 {
		t.Errorf("%d sandboxes left behind", len(left))
	}
}

func TestARowThatFailsDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	server, opts := connect(t)
	server.Limit = 10
	opts.Only = []string{"burst", "create-hot"}
	report, err := Run(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if row := report.Rows[1]; row.Verdict != Failed || !strings.Contains(row.Note, "all 10 sandboxes are in use") {
		t.Errorf("burst: %s (%s)", row.Verdict, row.Note)
	}
	if row := report.Rows[0]; row.Verdict == Failed || row.N != 20 {
		t.Errorf("create-hot: %+v", row)
	}
	if left := server.IDs(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUnknownRow(t *testing.T) {
	if _, err := Run(t.Context(), Options{Only: []string{"create-warm"}}); !errs.Is(err, errs.Invalid) {
		t.Errorf("Run = %v, want an error of kind invalid", err)
	}
}

func TestParallelStopsAtTheFirstError(t *testing.T) {
	var calls atomic.Int64
	reason := errors.New("third")
	err := parallel(t.Context(), 2, 1000, func(context.Context, int) error {
		if calls.Add(1) == 3 {
			return reason
		}
		return nil
	})
	if !errors.Is(err, reason) || calls.Load() > 10 {
		t.Errorf("parallel = %v after %d calls", err, calls.Load())
	}
	if err := parallel(t.Context(), 4, 0, nil); err != nil {
		t.Errorf("parallel over nothing = %v", err)
	}
}

// The program given to runc runs, and so would the other machine's.
func TestExitProgram(t *testing.T) {
	for arch, want := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		program, err := exitProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil || f.Machine != want || len(f.Progs) != 1 || f.Progs[0].Filesz != uint64(len(program)) {
			t.Errorf("%s: %+v, %v", arch, f, err)
		}
		if arch != runtime.GOARCH {
			continue
		}
		path := filepath.Join(t.TempDir(), "true")
		if err := os.WriteFile(path, program, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := exec.CommandContext(t.Context(), path).Run(); err != nil {
			t.Errorf("%s: %v", arch, err)
		}
	}
	if _, err := exitProgram("vax"); err == nil {
		t.Error("exitProgram knows the vax")
	}
}
