package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// compose asks to join sources.
func (a *testAgent) compose(t *testing.T, destination string, sources []string, header ...string) (int, string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"source_paths": sources, "destination": destination})
	must(t, err)
	status, _, reply := a.do(t, http.MethodPost, "/files/compose", string(body), header...)
	return status, reply
}

func TestCompose(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	part := func(i int) string { return filepath.Join(dir, fmt.Sprintf("part%d", i)) }
	write(t, part(1), strings.Repeat("one ", 10_000), 0o600)
	write(t, part(2), "", 0o600)
	write(t, part(3), "three", 0o600)
	must(t, os.Symlink("part3", part(4)))
	destination := filepath.Join(dir, "new/whole.bin")
	status, body := a.compose(t, destination, []string{part(3), part(1), part(2), part(4)})
	if want := fmt.Sprintf(`{"path":%q,"name":"whole.bin","type":"file"}`+"\n", destination); status != 200 || body != want {
		t.Fatalf("%d %q, want %q", status, body, want)
	}
	if got := read(t, destination); got != "three"+strings.Repeat("one ", 10_000)+"three" {
		t.Errorf("joined to %d bytes", len(got))
	}
	for i := 1; i <= 4; i++ {
		if _, err := os.Lstat(part(i)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("source %d is still there: %v", i, err)
		}
	}
	// Relative to the home directory, over an old file whose mode stays.
	write(t, filepath.Join(a.home, "a"), "A", 0o600)
	write(t, filepath.Join(a.home, "b"), "old", 0o750)
	if status, body = a.compose(t, "b", []string{"~/a"}); status != 200 || read(t, a.home+"/b") != "A" {
		t.Errorf("relative: %d %s", status, body)
	}
	if info, err := os.Stat(a.home + "/b"); err != nil || info.Mode() != 0o750 {
		t.Errorf("mode %v, %v", info, err)
	}
}

func TestComposeThroughLink(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "f"), "old", 0o640)
	must(t, os.Symlink("f", filepath.Join(dir, "link")))
	part := write(t, filepath.Join(dir, "part"), "new", 0o600)
	if status, body := a.compose(t, dir+"/link", []string{part}); status != 200 || read(t, file) != "new" {
		t.Errorf("through a link: %d %s", status, body)
	}
	if info, err := os.Lstat(dir + "/link"); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link became %v, %v", info, err)
	}
}

func TestComposeMetadata(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	if err := unix.Setxattr(dir, "user.e2b.old", []byte("x"), 0); err != nil {
		t.Skipf("missing extended attributes in the temporary directory: %v", err)
	}
	status, body := a.compose(t, dir+"/g", []string{write(t, dir+"/f", "x", 0o600)}, "X-Metadata-K", "v")
	if status != 200 || !strings.Contains(body, `"metadata":{"k":"v"}`) {
		t.Errorf("%d %s", status, body)
	}
}

// TestComposeRefused checks that what is refused changes nothing.
func TestComposeRefused(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write(t, path("f"), "f", 0o600)
	write(t, path("old"), "old", 0o600)
	must(t, os.Link(path("old"), path("hard")))
	must(t, os.Symlink("gone", path("dangling")))
	must(t, syscall.Mkfifo(path("fifo"), 0o600))
	many := make([]string, 10_001)
	for i := range many {
		many[i] = fmt.Sprint(path("many"), i)
	}
	for what, test := range map[string]struct {
		destination string
		sources     []string
		status      int
	}{
		"missing source":          {path("old"), []string{path("f"), path("none")}, 404},
		"dangling source":         {path("old"), []string{path("f"), path("dangling")}, 404},
		"a directory":             {path("old"), []string{path("f"), dir}, 400},
		"a pipe":                  {path("old"), []string{path("f"), path("fifo")}, 400},
		"below a file":            {path("old"), []string{path("f") + "/x"}, 400},
		"no sources":              {path("old"), nil, 400},
		"an empty source":         {path("old"), []string{path("f"), ""}, 400},
		"twice":                   {path("old"), []string{path("f"), path("x/../f")}, 400},
		"too many":                {path("old"), many, 400},
		"itself":                  {path("old"), []string{path("f"), path("old")}, 400},
		"itself by another name":  {path("old"), []string{path("f"), path("hard")}, 400},
		"no destination":          {"", []string{path("f")}, 400},
		"directory destination":   {dir, []string{path("f")}, 400},
		"destination with slash":  {path("new") + "/", []string{path("f")}, 400},
		"destination below file":  {path("old") + "/x", []string{path("f")}, 400},
		"destination is a device": {"/dev/null", []string{path("f")}, 400},
		"NUL":                     {path("old"), []string{path("f\x00")}, 400},
	} {
		status, body := a.compose(t, test.destination, test.sources)
		wantError(t, what, status, body, test.status)
	}
	for what, body := range map[string]string{
		"empty": "", "not JSON": "{", "an array": "[]", "wrong types": `{"source_paths":"x"}`,
		"too long": `{"destination":"` + strings.Repeat("x", 9<<20) + `"}`,
	} {
		status, _, reply := a.do(t, http.MethodPost, "/files/compose", body)
		wantError(t, what, status, reply, 400)
	}
	status, _, body := a.do(t, http.MethodPost, "/files/compose", `{"source_paths":["a"],"destination":"b","username":"nobody-of-that-name"}`)
	wantError(t, "unknown user", status, body, 401)
	status, _, body = a.do(t, http.MethodGet, "/files/compose", "")
	wantError(t, "wrong method", status, body, 405)
	if read(t, path("f")) != "f" || read(t, path("old")) != "old" {
		t.Error("a refused request changed a file")
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A client that goes away while much is being joined leaves everything as it was.
func TestComposeClientGone(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	source := write(t, filepath.Join(dir, "source"), "x", 0o600)
	must(t, os.Truncate(source, 64<<30)) // without blocks, yet long to copy
	destination := write(t, filepath.Join(dir, "to/destination"), "old", 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := fmt.Sprintf(`{"source_paths":[%q],"destination":%q}`, source, destination)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/files/compose", strings.NewReader(body))
	must(t, err)
	done := make(chan error, 1)
	go func() {
		res, err := a.http.Do(req)
		if err == nil {
			_ = res.Body.Close()
		}
		done <- err
	}()
	entries := func() int {
		found, err := os.ReadDir(filepath.Dir(destination))
		must(t, err)
		return len(found)
	}
	eventually(t, "the copy has begun", func() bool { return entries() == 2 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("the request ended with %v", err)
	}
	eventually(t, "the copy is gone", func() bool { return entries() == 1 })
	if info, err := os.Stat(source); err != nil || info.Size() != 64<<30 || read(t, destination) != "old" {
		t.Errorf("source %v, %v; destination %q", info, err, read(t, destination))
	}
}
