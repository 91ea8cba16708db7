package agent_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
)

// TestListForms asks for the same listing in every form there is.
func TestListForms(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	for i := range 1_000 { // more than is sent at once
		write(t, fmt.Sprintf("%s/sub/%04d", dir, i), strings.Repeat("x", i), 0o640)
	}
	must(t, os.Symlink("sub", dir+"/link"))
	want, err := a.listDir(t, dir, 2)
	must(t, err)
	if len(want) != 1_002 {
		t.Fatalf("%d entries", len(want))
	}
	for what, options := range map[string][]connect.ClientOption{
		"protobuf":        nil,
		"compressed JSON": {connect.WithProtoJSON(), connect.WithSendGzip()},
		"gRPC-Web":        {connect.WithGRPCWeb()},
	} {
		client := filesystemconnect.NewFilesystemClient(a.http, base, options...)
		got, err := client.ListDir(t.Context(), connect.NewRequest(&pb.ListDirRequest{Path: dir, Depth: 2}))
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if d := cmp.Diff(want, got.Msg.GetEntries(), protocmp.Transform()); d != "" {
			t.Errorf("%s (-JSON +this):\n%.2000s", what, d)
		}
		_, err = client.ListDir(t.Context(), connect.NewRequest(&pb.ListDirRequest{Path: dir + "/none", Depth: 1}))
		wantCode(t, what+", missing", err, connect.CodeNotFound)
		empty, err := client.ListDir(t.Context(), connect.NewRequest(&pb.ListDirRequest{Path: a.home, Depth: 1}))
		if err != nil || len(empty.Msg.GetEntries()) != 0 {
			t.Errorf("%s, empty: %v, %v", what, empty, err)
		}
	}
}

// TestListRefused sends requests for listings that are none.
func TestListRefused(t *testing.T) {
	a := startAgent(t)
	const listing = "/filesystem.Filesystem/ListDir"
	for what, test := range map[string]struct {
		body   string
		header []string
		status int
	}{
		"empty":          {"", nil, 400},
		"not JSON":       {"{", nil, 400},
		"not an object":  {"[]", nil, 400},
		"wrong type":     {`{"path":1}`, nil, 400},
		"negative depth": {`{"path":"/","depth":-1}`, nil, 400},
		"depth 0":        {`{"path":"/"}`, nil, 400},
		"NUL":            {`{"path":"/\u0000","depth":1}`, nil, 400},
		"long path":      {`{"path":"/` + strings.Repeat("x", 4096) + `","depth":1}`, nil, 400},
		"long body":      {`{"path":"` + strings.Repeat("x", 100_000) + `","depth":1}`, nil, 400},
		"unknown user":   {`{"path":"/","depth":1}`, []string{"Authorization", "Basic bm9ib2R5LW9mLXRoYXQtbmFtZTo="}, 401},
		"bad version":    {`{"path":"/","depth":1}`, []string{"Connect-Protocol-Version", "9"}, 400},
		"bad timeout":    {`{"path":"/","depth":1}`, []string{"Connect-Timeout-Ms", "soon"}, 400},
	} {
		status, h, body := a.do(t, http.MethodPost, listing, test.body, append(test.header, "Content-Type", "application/json")...)
		if status != test.status || !strings.Contains(body, `"code":"`) || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %q %v, want %d", what, status, body, h, test.status)
		}
	}
	if status, _, body := a.do(t, http.MethodPost, listing, "{}", "Content-Type", "text/plain"); status != http.StatusUnsupportedMediaType {
		t.Errorf("content type: %d %s", status, body)
	}
	if status, _, body := a.do(t, http.MethodGet, listing, ""); status != http.StatusMethodNotAllowed {
		t.Errorf("method: %d %s", status, body)
	}
}

// TestDeepTree works on paths longer than the kernel takes at once.
func TestDeepTree(t *testing.T) {
	a := startAgent(t)
	top := filepath.Join(t.TempDir(), "top")
	must(t, os.Mkdir(top, 0o755))
	const depth = 3_000
	deepen(t, top, depth)
	entries, err := a.listDir(t, top, 1<<31)
	if err != nil || len(entries) < 1_500 || len(entries) > depth {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		if want := top + strings.Repeat("/d", i+1); e.GetPath() != want {
			t.Fatalf("entry %d is %.100s", i, e.GetPath())
		}
	}
	_, err = a.stat(t, top+strings.Repeat("/d", depth))
	wantCode(t, "stat too deep", err, connect.CodeInvalidArgument)
	must(t, a.move(t, top, top+"2"))
	must(t, a.remove(t, top+"2"))
	if _, err := os.Lstat(top + "2"); err == nil {
		t.Error("the tree is still there")
	}
}

// deepen makes directories in each other, however long the path gets.
func deepen(t *testing.T, top string, depth int) {
	t.Helper()
	at, err := syscall.Open(top, syscall.O_DIRECTORY, 0)
	must(t, err)
	for range depth {
		must(t, syscall.Mkdirat(at, "d", 0o755))
		next, err := syscall.Openat(at, "d", syscall.O_DIRECTORY, 0)
		_ = syscall.Close(at)
		must(t, err)
		at = next
	}
	_ = syscall.Close(at)
}

// TestListMemory lists a directory whose listing is many times larger than what
// the agent may use for it.
func TestListMemory(t *testing.T) {
	a := startSeparately(t, "")
	const limit = 16 << 20
	entries := 20_000
	if text := os.Getenv("SANDLOT_TEST_ENTRIES"); text != "" {
		_, err := fmt.Sscan(text, &entries)
		must(t, err)
	}
	dir := a.home + "/" + strings.Repeat("long", 60)
	manyFiles(t, dir, entries)
	peak := a.peak(t, fmt.Sprint(entries, " entries"), func() {
		if n := a.drainList(t, dir); n < int64(entries)*400 {
			t.Errorf("%d bytes", n)
		}
	})
	if peak > max(limit, int64(entries)*160) {
		t.Errorf("a listing of %d entries took %.1f MiB of the agent", entries, float64(peak)/(1<<20))
	}
}

func manyFiles(t testing.TB, dir string, entries int) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for i := range entries {
		fd, err := syscall.Open(fmt.Sprintf("%s/%06d", dir, i), syscall.O_CREAT|syscall.O_WRONLY, 0o644)
		must(t, err)
		_ = syscall.Close(fd)
	}
}

// drainList asks for a listing as the SDKs do and drops it.
func (a *testAgent) drainList(t testing.TB, dir string) int64 {
	t.Helper()
	res, err := a.http.Post(base+"/filesystem.Filesystem/ListDir", "application/json", strings.NewReader(fmt.Sprintf(`{"path":%q,"depth":1}`, dir)))
	must(t, err)
	n, err := io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("%d, %v", res.StatusCode, err)
	}
	return n
}

// BenchmarkListDir lists 100,000 files, without decoding the reply.
func BenchmarkListDir(b *testing.B) {
	a := startAgent(b)
	dir := b.TempDir()
	manyFiles(b, dir, 100_000)
	for b.Loop() {
		a.drainList(b, dir)
	}
	b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
