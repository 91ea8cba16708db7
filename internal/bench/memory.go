package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// readings are taken of the memory that is available, readingPause apart.
const readings, readingPause = 5, 200 * time.Millisecond

// memory returns a row that keeps n sandboxes alive and looks at the host.
func memory(n int) func(context.Context, *bench) (outcome, error) {
	return func(ctx context.Context, b *bench) (outcome, error) {
		if b.opts.Quick && n > 100 {
			return outcome{}, skip("left out by --quick")
		}
		pause(ctx, calm)
		before, err := meminfo("MemAvailable")
		if err != nil {
			return outcome{}, err
		}
		pssBefore := foreignPSS()
		boxes, err := b.fleet.many(ctx, n)
		if err != nil {
			return outcome{}, fmt.Errorf("create %d sandboxes: %w", n, err)
		}
		pause(ctx, calm)
		out := outcome{note: "processes alone, shared pages split: " + perSandbox(foreignPSS()-pssBefore, n)}
		for range readings {
			after, err := meminfo("MemAvailable")
			if err != nil {
				return out, err
			}
			out.samples = append(out.samples, float64(before-after)/float64(n)/(1<<20))
			pause(ctx, readingPause)
		}
		return out, b.allAnswer(ctx, boxes)
	}
}

func perSandbox(bytes int64, n int) string {
	if os.Geteuid() != 0 {
		return "unknown (needs root)"
	}
	return fmt.Sprintf("%.2f MiB", float64(bytes)/float64(n)/(1<<20))
}

// meminfo returns a field of /proc/meminfo in bytes.
func meminfo(field string) (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	kib, err := kibField(string(text), field)
	return kib << 10, err
}

// kibField finds "field:  123 kB" in a file of the proc file system.
func kibField(text, field string) (int64, error) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		}
	}
	return 0, fmt.Errorf("no field %s", field)
}

// foreignPSS sums the proportional set size, in bytes, of the processes in
// other pid namespaces than ours. What cannot be read counts as nothing.
func foreignPSS() int64 {
	ours, _ := os.Readlink("/proc/self/ns/pid")
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var total int64
	for _, dir := range dirs {
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns == ours {
			continue
		}
		text, err := os.ReadFile(dir + "/smaps_rollup")
		if err != nil {
			continue
		}
		kib, _ := kibField(string(text), "Pss")
		total += kib << 10
	}
	return total
}
