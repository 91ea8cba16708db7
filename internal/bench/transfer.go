package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/client"
)

const (
	mebi = 1 << 20
	// copyBytes is the buffer of every end measured here.
	copyBytes = 256 << 10
	// bigFile is what is moved inside the sandbox.
	bigFile = "/home/user/big"
)

// mbps returns bytes since start in 10⁶ bytes per second.
func mbps(bytes int64, start time.Time) float64 {
	return float64(bytes) / 1e6 / time.Since(start).Seconds()
}

// zeros is a body of that many bytes; its remaining length is known to nobody,
// as with a program that streams.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

// Read leaves p as it is, which is as good as anything to send.
func (zero) Read(p []byte) (int, error) { return len(p), nil }

// drain reads a body to its end into a buffer of its own.
func drain(body io.ReadCloser, want int64) error {
	n, err := io.CopyBuffer(onlyWriter{io.Discard}, onlyReader{body}, make([]byte, copyBytes))
	if err == nil && n != want {
		err = fmt.Errorf("%d bytes came instead of %d", n, want)
	}
	return errors.Join(err, body.Close())
}

// onlyWriter and onlyReader hide what would choose another buffer.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// dropCache makes dd, which every system has, tell the kernel to forget a file.
var dropCache = []string{"dd", "iflag=nocache", "count=0", "status=none"}

func download(ctx context.Context, b *bench) (outcome, error) {
	return b.downloads(ctx, int64(b.pick(1024, 128))*mebi, 3, true)
}

func downloadCached(ctx context.Context, b *bench) (outcome, error) {
	return b.downloads(ctx, int64(b.pick(512, 64))*mebi, 7, false)
}

// downloads measures n downloads of a file beside nginx with one as large; cold
// ones read it from the disk.
func (b *bench) downloads(ctx context.Context, size int64, n int, cold bool) (out outcome, err error) {
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return out, err
	}
	if err := sbx.Files.WriteStream(ctx, bigFile, zeros(size)); err != nil {
		return out, err
	}
	rival, rivalErr := startRival(ctx, size)
	if rivalErr != nil {
		out.note = rivalErr.Error()
	} else {
		defer func() { err = errors.Join(err, rival.stop()) }()
	}
	for i := range n + 1 {
		if rival != nil {
			took, err := rival.download(ctx, size, cold)
			if err != nil {
				return out, err
			}
			if i > 0 {
				out.floor = append(out.floor, took)
			}
		}
		took, err := downloadOnce(ctx, sbx, size, cold)
		if err != nil {
			return out, err
		}
		if i > 0 { // the first is not counted
			out.samples = append(out.samples, took)
		}
	}
	return out, nil
}

func downloadOnce(ctx context.Context, sbx *client.Sandbox, size int64, cold bool) (float64, error) {
	if cold {
		if _, err := sbx.Commands.Exec(ctx, append(dropCache, "if="+bigFile)); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	body, err := sbx.Files.ReadStream(ctx, bigFile)
	if err != nil {
		return 0, err
	}
	err = drain(body, size)
	return mbps(size, start), err
}

// startRival starts nginx with a file of that size.
func startRival(ctx context.Context, size int64) (*nginx, error) {
	n, err := startNginx(ctx)
	if err != nil {
		return nil, err
	}
	if err := writeZeros(n.path("big"), size); err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

func (n *nginx) download(ctx context.Context, size int64, cold bool) (float64, error) {
	if cold {
		if err := exec.CommandContext(ctx, dropCache[0], append(dropCache[1:], "if="+n.path("big"))...).Run(); err != nil {
			return 0, fmt.Errorf("drop the cache of a file: %w", err)
		}
	}
	start := time.Now()
	body, err := n.get(ctx, "big")
	if err != nil {
		return 0, err
	}
	err = drain(body, size)
	return mbps(size, start), err
}

// writeZeros makes a file and brings it to the disk, without which its cache
// cannot be dropped.
func writeZeros(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(onlyWriter{f}, zeros(size), make([]byte, copyBytes))
	return errors.Join(err, f.Sync(), f.Close())
}

// upload measures uploads beside dd inside the sandbox: what the disk takes when
// nothing is sent.
func upload(ctx context.Context, b *bench) (out outcome, err error) {
	size := int64(b.pick(1024, 128)) * mebi
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return out, err
	}
	dd := []string{"dd", "if=/dev/zero", "of=/home/user/dd", "bs=" + strconv.Itoa(copyBytes), "count=" + strconv.FormatInt(size/copyBytes, 10), "status=none"}
	for i := range b.pick(5, 2) {
		start := time.Now()
		if _, err := sbx.Commands.Exec(ctx, dd); err != nil {
			return out, err
		}
		floor := mbps(size, start)
		start = time.Now()
		if err := sbx.Files.WriteStream(ctx, bigFile, zeros(size)); err != nil {
			return out, err
		}
		if i > 0 || b.opts.Quick { // the first is not counted
			out.samples, out.floor = append(out.samples, mbps(size, start)), append(out.floor, floor)
		}
		if _, err := sbx.Commands.Exec(ctx, []string{"rm", bigFile, "/home/user/dd"}); err != nil {
			return out, err
		}
	}
	return out, nil
}

const smallFile, batchSize = 1 << 10, 100

// smallFiles measures requests that write a hundred files each.
func smallFiles(ctx context.Context, b *bench) (out outcome, err error) {
	sbx, err := b.fleet.create(ctx)
	if err != nil {
		return out, err
	}
	local, err := os.MkdirTemp("", "sandlot-bench-")
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(local)) }()
	data := []byte(strings.Repeat("x", smallFile))
	for batch := range b.pick(10_000, 1000) / batchSize {
		dir := "batch" + strconv.Itoa(batch)
		start := time.Now()
		if err := writeLocal(filepath.Join(local, dir), data); err != nil {
			return out, err
		}
		out.floor = append(out.floor, batchSize/time.Since(start).Seconds())
		files := make([]client.FileData, batchSize)
		for i := range files {
			files[i] = client.FileData{Path: "/home/user/" + dir + "/" + strconv.Itoa(i), Data: data}
		}
		start = time.Now()
		if err := sbx.Files.WriteFiles(ctx, files); err != nil {
			return out, err
		}
		out.samples = append(out.samples, batchSize/time.Since(start).Seconds())
	}
	return out, nil
}

func writeLocal(dir string, data []byte) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for i := range batchSize {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
