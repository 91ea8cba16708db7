package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/client"
)

// atOnce returns a row that runs n commands at the same time, again and again,
// in turn with n local ones. Its samples are a round's time divided by n: how
// long single ones wait for the processors says little.
func atOnce(n int) func(context.Context, *bench) (outcome, error) {
	return func(ctx context.Context, b *bench) (out outcome, err error) {
		sbx, err := b.fleet.create(ctx)
		if err != nil {
			return out, err
		}
		var each []float64
		for i := range max(b.pick(1280, 64)/n, 4) + 1 {
			_, floor, err := together(ctx, n, forkExecWait)
			if err != nil {
				return out, err
			}
			samples, took, err := together(ctx, n, func(ctx context.Context) (float64, error) {
				start := time.Now()
				_, err := sbx.Commands.Exec(ctx, []string{"/bin/true"})
				return ms(start), err
			})
			if err != nil {
				return out, err
			}
			if i > 0 { // the first round opens the connections
				out.samples, out.floor = append(out.samples, took/float64(n)), append(out.floor, floor/float64(n))
				each = append(each, samples...)
			}
		}
		out.note = fmt.Sprintf("from start to end each waited %.2f ms in the median", Summarize(each).P50)
		return out, nil
	}
}

// together calls do n times at once and returns the results and how long all
// took, in ms.
func together(ctx context.Context, n int, do func(context.Context) (float64, error)) ([]float64, float64, error) {
	samples := make([]float64, n)
	start := time.Now()
	err := parallel(ctx, n, n, func(ctx context.Context, i int) (err error) {
		samples[i], err = do(ctx)
		return err
	})
	return samples, ms(start), err
}

// list measures listings beside find.
func list(ctx context.Context, b *bench) (out outcome, err error) {
	n := b.pick(100_000, 10_000)
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return out, err
	}
	if _, err := sbx.Commands.Run(ctx, fmt.Sprintf("mkdir many && cd many && seq -f f%%06g %d | xargs touch", n)); err != nil {
		return out, err
	}
	for i := range b.pick(5, 3) + 1 {
		start := time.Now()
		if _, err := sbx.Commands.Run(ctx, `find many -mindepth 1 -printf '%p %y %s %m %M %u %g %T@ %l\n' > /dev/null`); err != nil {
			return out, err
		}
		floor := float64(n) / time.Since(start).Seconds()
		start = time.Now()
		if err := listOnce(ctx, sbx, n); err != nil {
			return out, err
		}
		if i > 0 { // the first fills the caches
			out.samples, out.floor = append(out.samples, float64(n)/time.Since(start).Seconds()), append(out.floor, floor)
		}
	}
	return out, nil
}

// listOnce lists as the SDKs do, up to the last byte of the reply. Decoding it is
// the client's affair.
func listOnce(ctx context.Context, sbx *client.Sandbox, want int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sandbox/filesystem.Filesystem/ListDir", strings.NewReader(`{"path":"many","depth":1}`))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := sbx.Transport(agentPort).RoundTrip(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if got := bytes.Count(text, []byte(`"name":`)); res.StatusCode != http.StatusOK || got != want {
		return fmt.Errorf("the listing has status %d and %d entries instead of %d", res.StatusCode, got, want)
	}
	return nil
}

// agentPort is where a sandbox's agent is reached.
const agentPort = 49983

// agentAtRest reads the agent's memory in sandboxes that have just been made.
func agentAtRest(ctx context.Context, b *bench) (out outcome, err error) {
	var pss []float64
	for range b.pick(10, 3) {
		sbx, err := b.fleet.create(ctx)
		if err != nil {
			return out, err
		}
		m, err := readAgent(ctx, sbx)
		if err != nil {
			return out, err
		}
		out.samples, pss = append(out.samples, m.resident), append(pss, m.proportional)
	}
	out.note = fmt.Sprintf("with shared pages split among all sandboxes: %.2f MiB", Summarize(pss).P50)
	return out, nil
}

// agentAtLoad reads the highest the agent's memory has been after it was used.
func agentAtLoad(ctx context.Context, b *bench) (out outcome, err error) {
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return out, err
	}
	size := int64(b.pick(1024, 128)) * mebi
	if err := sbx.Files.WriteStream(ctx, bigFile, zeros(size)); err != nil {
		return out, err
	}
	if _, err := downloadOnce(ctx, sbx, size, false); err != nil {
		return out, err
	}
	if _, _, err := together(ctx, 64, func(ctx context.Context) (float64, error) {
		_, err := sbx.Commands.Exec(ctx, []string{"/bin/true"})
		return 0, err
	}); err != nil {
		return out, err
	}
	m, err := readAgent(ctx, sbx)
	if err != nil {
		return out, err
	}
	out.samples = []float64{m.peak}
	out.note = fmt.Sprintf("afterwards resident %.2f MiB, with shared pages split %.2f MiB", m.resident, m.proportional)
	return out, nil
}

// agentMemory is in MiB. Resident and peak count the program's own pages too,
// which all sandboxes share.
type agentMemory struct{ resident, peak, proportional float64 }

// readAgent asks inside, where the agent is process 1.
func readAgent(ctx context.Context, sbx *client.Sandbox) (m agentMemory, err error) {
	res, err := sbx.Commands.Exec(ctx, []string{"cat", "/proc/1/status", "/proc/1/smaps_rollup"}, client.AsUser("root"))
	if err != nil {
		return m, err
	}
	for field, to := range map[string]*float64{"VmRSS": &m.resident, "VmHWM": &m.peak, "Pss": &m.proportional} {
		kib, err := kibField(res.Stdout, field)
		if err != nil {
			return m, err
		}
		*to = float64(kib) / 1024
	}
	return m, nil
}
