package agent_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// transferBytes is how much the memory tests move at once;
// SANDLOT_TEST_TRANSFER_MIB asks for more.
func transferBytes(t *testing.T) int64 {
	t.Helper()
	mib := int64(64)
	if text := os.Getenv("SANDLOT_TEST_TRANSFER_MIB"); text != "" {
		var err error
		mib, err = strconv.ParseInt(text, 10, 32)
		must(t, err)
	}
	return mib << 20
}

// status returns a value in kB of the agent's /proc/<pid>/status, in bytes.
func (a separateAgent) status(t *testing.T, field string) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			must(t, err)
			return kb << 10
		}
	}
	t.Fatalf("missing %s in /proc/%d/status", field, a.pid)
	return 0
}

// peak runs work and returns what of its own memory the agent needed at most
// meanwhile: without the pages of its program, which all sandboxes share.
func (a separateAgent) peak(t *testing.T, what string, work func()) int64 {
	t.Helper()
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", a.pid), []byte("5"), 0)) // resets VmHWM
	work()
	peak := a.status(t, "VmHWM") - a.status(t, "RssFile")
	t.Logf("%s: %.1f MiB", what, float64(peak)/(1<<20))
	return peak
}

// pattern is an endless stream that compresses by half.
type pattern struct{ x uint32 }

// Read fills p.
func (r *pattern) Read(p []byte) (int, error) {
	for i := range p {
		r.x = r.x*1664525 + 1013904223
		p[i] = byte(r.x>>28) + 'a'
	}
	return len(p), nil
}

// TestTransferMemory moves files far larger than the agent may grow.
func TestTransferMemory(t *testing.T) {
	a := startSeparately(t, "")
	size := transferBytes(t)
	const limit = 16 << 20
	path := a.home + "/big"
	block := make([]byte, 1<<20)
	_, _ = (&pattern{}).Read(block)
	content := func() io.Reader { return io.LimitReader(&repeat{block: block}, size) }
	for _, work := range []struct {
		what string
		do   func()
	}{
		{"upload, octets", func() { a.push(t, filesURL(path), content(), "Content-Type", octets) }},
		{"upload, gzip", func() {
			a.push(t, filesURL(path), piped(func(w io.Writer) error {
				z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
				_, err := io.Copy(z, content())
				return orElse(err, z.Close)
			}), "Content-Type", octets, "Content-Encoding", "gzip")
		}},
		{"upload, form", func() {
			boundary := multipart.NewWriter(io.Discard).Boundary()
			a.push(t, "/files", piped(func(w io.Writer) error {
				form := multipart.NewWriter(w)
				_ = form.SetBoundary(boundary)
				part, err := form.CreateFormFile("file", path)
				if err == nil {
					_, err = io.Copy(part, content())
				}
				return orElse(err, form.Close)
			}), "Content-Type", "multipart/form-data; boundary="+boundary)
		}},
		{"download", func() { a.fetch(t, path, size) }},
		{"download, gzip", func() { a.fetch(t, path, -1, "Accept-Encoding", "gzip") }},
		{"compose", func() {
			if status, body := a.compose(t, path+"2", []string{path}); status != 200 {
				t.Errorf("compose: %d %s", status, body)
			}
		}},
	} {
		if peak := a.peak(t, work.what, work.do); peak > limit {
			t.Errorf("%s of %d MiB took %.1f MiB of the agent", work.what, size>>20, float64(peak)/(1<<20))
		}
	}
}

// repeat repeats a block.
type repeat struct {
	block []byte
	at    int
}

// Read copies from the block.
func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

// piped returns what write writes.
func piped(write func(io.Writer) error) io.Reader {
	r, w := io.Pipe()
	go func() { _ = w.CloseWithError(write(w)) }()
	return r
}

func orElse(err error, last func() error) error {
	if err != nil {
		return err
	}
	return last()
}

// push uploads a body of unknown length.
func (a *testAgent) push(t *testing.T, path string, body io.Reader, header ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, body)
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := a.http.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	reply, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("%s: %d %s", path, res.StatusCode, reply)
	}
}

// fetch downloads and drops a file; size -1 takes any.
func (a *testAgent) fetch(t *testing.T, path string, size int64, header ...string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+filesURL(path), nil)
	must(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := a.http.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	n, err := io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if err != nil || size >= 0 && n != size || res.StatusCode != http.StatusOK {
		t.Errorf("%s: %d, %d bytes, %v", path, res.StatusCode, n, err)
	}
}

// TestParallelTransferMemory runs 64 transfers of each kind at once.
func TestParallelTransferMemory(t *testing.T) {
	a := startSeparately(t, "")
	const size, workers, limit = 4 << 20, 64, 48 << 20
	body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for _, work := range []struct {
		what string
		do   func(path string)
	}{
		{"uploads", func(path string) {
			a.push(t, filesURL(path), io.MultiReader(bytes.NewReader(body)), "Content-Type", octets)
		}},
		{"downloads", func(path string) { a.fetch(t, path, size) }},
		{"compressed downloads", func(path string) { a.fetch(t, path, -1, "Accept-Encoding", "gzip, identity;q=0") }},
	} {
		peak := a.peak(t, fmt.Sprint(workers, " ", work.what), func() {
			var wg sync.WaitGroup
			for i := range workers {
				wg.Go(func() { work.do(fmt.Sprintf("%s/%d", a.home, i)) })
			}
			wg.Wait()
		})
		if peak > limit {
			t.Errorf("%d %s took %.1f MiB of the agent", workers, work.what, float64(peak)/(1<<20))
		}
	}
}

// TestIdleConnections keeps thousands of connections open that say nothing.
func TestIdleConnections(t *testing.T) {
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	count := min(10_000, int(old.Cur)-200)
	a := startSeparately(t, "")
	conns := make([]io.Closer, 0, count)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	peak := a.peak(t, fmt.Sprint(count, " connections"), func() {
		for range count {
			conn, err := a.dial(t.Context(), "", "")
			must(t, err)
			conns = append(conns, conn)
		}
		if status, _, _ := a.do(t, http.MethodGet, "/health", ""); status != 204 {
			t.Errorf("health: %d", status)
		}
	})
	if limit := int64(count)*16<<10 + 16<<20; peak > limit {
		t.Errorf("%d connections took %.1f MiB of the agent", count, float64(peak)/(1<<20))
	}
}

// TestConnectionStorm opens and closes connections that break off anywhere.
func TestConnectionStorm(t *testing.T) {
	a := startSeparately(t, "")
	starts := []string{
		"", "\x00", "G", "GET /health HTTP/1.1\r\n", "POST /files?path=/nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /files?path=x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		"CONNECT localhost:1 HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\nContent-Length: 99\r\n\r\n\x00\x00\x00\x00\xff{",
	}
	before := a.status(t, "RssAnon")
	peak := a.peak(t, "connections broken off", func() {
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				for i := range 2_500 {
					conn, err := a.dial(context.Background(), "", "")
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.WriteString(conn, starts[(i+worker)%len(starts)])
					_ = conn.Close()
				}
			})
		}
		wg.Wait()
	})
	if peak > before+32<<20 {
		t.Errorf("took %.1f MiB of the agent", float64(peak-before)/(1<<20))
	}
	eventually(t, "its descriptors are closed", func() bool {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.pid))
		return err == nil && len(open) < 50
	})
	if status, _, _ := a.do(t, http.MethodGet, "/health", ""); status != 204 {
		t.Errorf("health: %d", status)
	}
}
