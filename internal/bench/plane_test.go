package bench

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

func TestPlaneRowsMeasure(t *testing.T) {
	t.Parallel()
	_, opts := connect(t)
	opts.Only = []string{"command-8", "small-files", "list"}
	report, err := Run(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range report.Rows {
		got = append(got, row.Name)
		if row.Verdict == Failed || row.Floor == nil || row.Floor.P50 <= 0 || row.Value <= 0 {
			t.Errorf("%s: %+v", row.Name, row)
		}
	}
	if diff := cmp.Diff(opts.Only, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	var table strings.Builder
	if err := report.WriteTable(&table); err != nil || !strings.Contains(table.String(), "floor: find -printf") {
		t.Errorf("table: %v\n%s", err, table.String())
	}
}

func TestNginxServesUntilStopped(t *testing.T) {
	n, err := startRival(t.Context(), mebi)
	if errors.Is(err, errNoNginx) {
		testreq.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	if speed, err := n.download(t.Context(), mebi, true); err != nil || speed <= 0 {
		t.Errorf("download: %v MB/s, %v", speed, err)
	}
	if _, err := n.get(t.Context(), "missing"); err == nil {
		t.Error("a missing file was served")
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory is still there: %v", err)
	}
	addr := strings.TrimSuffix(strings.TrimPrefix(n.url, "http://"), "/")
	if c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr); err == nil {
		_ = c.Close()
		t.Error("it still listens")
	}
}

func TestDrainCountsWhatCame(t *testing.T) {
	if err := drain(io.NopCloser(zeros(10)), 10); err != nil {
		t.Error(err)
	}
	if err := drain(io.NopCloser(zeros(9)), 10); err == nil {
		t.Error("a short body passed")
	}
}

func TestNextEvent(t *testing.T) {
	stream := bytes.NewReader(append(envelope([]byte(`{"event":{"start":{"pid":7}}}`)), envelope([]byte(`{"event":{"data":{"pty":"eA=="}}}`))...))
	if e, err := nextEvent(stream); err != nil || e.Start == nil || e.Start.PID != 7 {
		t.Errorf("start: %+v, %v", e, err)
	}
	if e, err := nextEvent(stream); err != nil || string(e.Data.PTY) != "x" {
		t.Errorf("data: %+v, %v", e, err)
	}
	for _, bad := range []string{"", "\x00\x00\x00\x00\x05{", "\x00\xff\xff\xff\xff", "\x00\x00\x00\x00\x01{"} {
		if e, err := nextEvent(strings.NewReader(bad)); err == nil {
			t.Errorf("%q gives %+v", bad, e)
		}
	}
}
