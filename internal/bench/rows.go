package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/client"
)

// specs returns the rows in the order they are measured.
func specs() []spec { return append(lifeSpecs(), planeSpecs()...) }

// lifeSpecs returns the rows of sandboxes' lives.
func lifeSpecs() []spec {
	return []spec{
		{name: "create-hot", title: "create, pool hit, request to 201", target: 3, run: createHot},
		{name: "create-cold", title: "create, pool bypassed", target: 15, run: createCold},
		{name: "runc", title: "rival: runc run of an empty bundle", run: runc},
		{name: "first-output", title: "create to first output, pool hit", target: 6, run: firstOutput},
		{name: "command", title: "command /bin/true, sandbox warm", target: 2, floors: true, run: commandTrue},
		{name: "shell", title: "command echo through bash -l, sandbox warm", run: commandShell},
		{name: "sustained-1", title: "create + command + kill, 1 client", target: 60, rate: true, run: sustained(1)},
		{name: "sustained-4", title: "create + command + kill, 4 clients", target: 60, rate: true, run: sustained(4)},
		{name: "burst", title: "100 creates at once, each", run: burst},
		{name: "memory-100", title: "host memory per idle sandbox, 100 alive", target: 4, unit: "MiB", run: memory(100)},
		{name: "memory-500", title: "host memory per idle sandbox, 500 alive", target: 4, unit: "MiB", run: memory(500)},
	}
}

// planeSpecs returns the rows of the data plane.
func planeSpecs() []spec {
	return []spec{
		{name: "command-8", title: "command /bin/true, 8 at once, time per command", floors: true, target: 2, floor: "the same of 8 local runs at once", run: atOnce(8)},
		{name: "command-64", title: "command /bin/true, 64 at once, time per command", floors: true, target: 2, floor: "the same of 64 local runs at once", run: atOnce(64)},
		{
			name: "download", title: "download of 1 GiB, read from the disk", floors: true, target: 0.5, unit: "MB/s",
			floor: "nginx with such a file on the host's disk, not cached either", run: download,
		},
		{
			name: "download-cached", title: "download of 512 MiB in the page cache", floors: true, target: 0.5, unit: "MB/s",
			floor: "nginx with such a file in the page cache", run: downloadCached,
		},
		{
			name: "upload", title: "upload of 1 GiB", target: 400, unit: "MB/s",
			floor: "dd to the same disk inside the sandbox", run: upload,
		},
		{
			name: "small-files", title: "10,000 files of 1 KiB, 100 per request", unit: "files/s",
			floor: "a local program that writes them one by one", run: smallFiles,
		},
		{
			name: "list", title: "list of 100,000 entries, JSON as the SDKs ask for it", target: 200_000, unit: "entries/s",
			floor: "find -printf of the same inside the sandbox", run: list,
		},
		{name: "watch", title: "watch, from making a file inside to the event at the client", target: 2, run: watch},
		{name: "pty-echo", title: "terminal, from a key sent to its echo at the client", run: echo},
		{name: "agent-rest", title: "resident memory of the agent at rest", unit: "MiB", run: agentAtRest},
		{name: "agent-load", title: "peak memory of the agent: 1 GiB up, 1 GiB down, 64 commands at once", target: 16, unit: "MiB", run: agentAtLoad},
	}
}

// refillPause lets the pool make up for the sandbox a sample took from it; a
// launch takes about 15 ms.
const refillPause = 60 * time.Millisecond

// calm is how long the host rests before rows that depend on its state: the pool
// fills up, and what ended sandboxes held in the kernel is freed, which is late.
const calm = 3 * time.Second

// warmups are samples that are not counted.
const warmups = 3

// ms returns the time since start in milliseconds.
func ms(start time.Time) float64 { return float64(time.Since(start)) / float64(time.Millisecond) }

// sampled takes n samples, each in turn with one of the floor. take does its
// own clean-up and returns the time in ms and whether the sample counts.
func (b *bench) sampled(ctx context.Context, n int, take func(context.Context) (float64, bool, error)) (outcome, error) {
	var out outcome
	dropped := 0
	for i := 0; len(out.samples) < n && i < warmups+2*n; i++ {
		floor, err := forkExecWait(ctx)
		if err != nil {
			return out, err
		}
		took, counts, err := take(ctx)
		if err != nil {
			return out, err
		}
		if i < warmups {
			continue
		}
		if !counts {
			dropped++
			continue
		}
		out.samples, out.floor = append(out.samples, took), append(out.floor, floor)
	}
	if dropped > 0 {
		out.note = fmt.Sprintf("%d creates found the pool empty and are not counted", dropped)
	}
	if len(out.samples) == 0 {
		return out, skip("no create was a pool hit; is the pool off?")
	}
	return out, nil
}

// hit reports whether a sandbox counts as a pool hit.
func hit(sbx *client.Sandbox) bool {
	fromPool, known := sbx.FromPool()
	return fromPool || !known
}

func createHot(ctx context.Context, b *bench) (outcome, error) {
	pause(ctx, calm)
	return b.sampled(ctx, b.pick(100, 20), func(ctx context.Context) (float64, bool, error) {
		start := time.Now()
		sbx, err := b.fleet.create(ctx)
		took := ms(start)
		if err != nil {
			return 0, false, err
		}
		err = sbx.Kill(ctx)
		pause(ctx, refillPause)
		return took, hit(sbx), err
	})
}

func createCold(ctx context.Context, b *bench) (outcome, error) {
	return b.sampled(ctx, b.pick(50, 10), func(ctx context.Context) (float64, bool, error) {
		start := time.Now()
		sbx, err := b.fleet.create(ctx, client.WithoutPool())
		took := ms(start)
		if err != nil {
			return 0, false, err
		}
		return took, true, sbx.Kill(ctx)
	})
}

// firstByte notes when the first output came.
type firstByte struct{ at time.Time }

// Write never fails.
func (f *firstByte) Write(p []byte) (int, error) {
	if f.at.IsZero() {
		f.at = time.Now()
	}
	return len(p), nil
}

func firstOutput(ctx context.Context, b *bench) (outcome, error) {
	return b.sampled(ctx, b.pick(50, 10), func(ctx context.Context) (float64, bool, error) {
		start := time.Now()
		sbx, err := b.fleet.create(ctx)
		if err != nil {
			return 0, false, err
		}
		var first firstByte
		if _, err := sbx.Commands.Exec(ctx, []string{"/bin/echo", "hi"}, client.WithStdout(&first)); err != nil {
			return 0, false, err
		}
		err = sbx.Kill(ctx)
		pause(ctx, refillPause)
		return float64(first.at.Sub(start)) / float64(time.Millisecond), hit(sbx), err
	})
}

func commandTrue(ctx context.Context, b *bench) (outcome, error) {
	return b.commands(ctx, b.pick(300, 50), func(ctx context.Context, sbx *client.Sandbox) error {
		_, err := sbx.Commands.Exec(ctx, []string{"/bin/true"})
		return err
	})
}

func commandShell(ctx context.Context, b *bench) (outcome, error) {
	return b.commands(ctx, b.pick(100, 20), func(ctx context.Context, sbx *client.Sandbox) error {
		_, err := sbx.Commands.Run(ctx, "echo hi")
		return err
	})
}

// commands samples a command in one warm sandbox.
func (b *bench) commands(ctx context.Context, n int, run func(context.Context, *client.Sandbox) error) (outcome, error) {
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return outcome{}, err
	}
	return b.sampled(ctx, n, func(ctx context.Context) (float64, bool, error) {
		start := time.Now()
		err := run(ctx, sbx)
		return ms(start), true, err
	})
}

// sustained returns a row that counts whole lives of sandboxes per second.
func sustained(clients int) func(context.Context, *bench) (outcome, error) {
	return func(ctx context.Context, b *bench) (outcome, error) {
		pause(ctx, calm)
		span := time.Duration(b.pick(8, 2)) * time.Second
		var mu sync.Mutex
		var out outcome
		start := time.Now()
		err := parallel(ctx, clients, clients, func(ctx context.Context, _ int) error {
			for time.Since(start) < span {
				took, err := b.wholeLife(ctx)
				if err != nil {
					return err
				}
				mu.Lock()
				out.samples = append(out.samples, took)
				mu.Unlock()
			}
			return nil
		})
		out.rate = float64(len(out.samples)) / time.Since(start).Seconds()
		return out, err
	}
}

func (b *bench) wholeLife(ctx context.Context) (float64, error) {
	start := time.Now()
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := sbx.Commands.Exec(ctx, []string{"/bin/true"}); err != nil {
		return 0, err
	}
	err = sbx.Kill(ctx)
	return ms(start), err
}

// burst creates 100 sandboxes at once.
func burst(ctx context.Context, b *bench) (outcome, error) {
	const n = 100
	pause(ctx, calm)
	samples := make([]float64, n)
	start := time.Now()
	err := parallel(ctx, n, n, func(ctx context.Context, i int) error {
		begun := time.Now()
		_, err := b.fleet.create(ctx)
		samples[i] = ms(begun)
		return err
	})
	return outcome{samples: samples, note: fmt.Sprintf("all %d after %.0f ms", n, ms(start))}, err
}
