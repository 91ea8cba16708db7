package agent_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// smallDisk makes a file system of size bytes that is mounted nowhere: its path
// leads through a descriptor of this process.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	testreq.Root(t)
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	must(t, err)
	defer unix.Close(fs)
	must(t, unix.FsconfigSetString(fs, "size", fmt.Sprint(size)))
	must(t, unix.FsconfigCreate(fs))
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(mount) })
	return fmt.Sprintf("/proc/self/fd/%d", mount)
}

// TestNoSpace fills a disk in every way there is.
func TestNoSpace(t *testing.T) {
	dir := smallDisk(t, 1<<20)
	a := startAgent(t)
	old := write(t, dir+"/old", "old", 0o600)
	big := strings.Repeat("x", 2<<20)
	several, several2 := form(t, "file", dir+"/fits", "fits", old, big, dir+"/never", "n")
	elsewhere := write(t, filepath.Join(t.TempDir(), "big"), big, 0o600)
	upload := func(body string, header ...string) func() (int, string) {
		return func() (int, string) {
			status, _, reply := a.do(t, http.MethodPost, filesURL(old), body, header...)
			return status, reply
		}
	}
	for what, try := range map[string]func() (int, string){
		"octets":    upload(big, "Content-Type", octets),
		"gzip bomb": upload(zipped(t, strings.Repeat(big, 8)), "Content-Type", octets, "Content-Encoding", "gzip"),
		"compose":   func() (int, string) { return a.compose(t, old, []string{elsewhere}) },
		"form": func() (int, string) {
			status, _, reply := a.do(t, http.MethodPost, "/files", several, "Content-Type", several2)
			if !strings.Contains(reply, old) || !strings.Contains(reply, "the 1 files before it are written") {
				t.Errorf("the reply does not say what failed: %s", reply)
			}
			return status, reply
		},
	} {
		status, reply := try()
		wantError(t, what, status, reply, http.StatusInsufficientStorage)
		if read(t, old) != "old" {
			t.Errorf("%s: the old file has changed", what)
		}
		if left := leftovers(t, dir); len(left) > 0 {
			t.Errorf("%s: left behind: %v", what, left)
		}
	}
	if read(t, dir+"/fits") != "fits" || read(t, elsewhere) != big {
		t.Error("what has nothing to do with it has changed")
	}
	wantCode(t, "move to a full disk", a.move(t, elsewhere, dir+"/moved"), connect.CodeResourceExhausted)
	if read(t, elsewhere) != big || len(leftovers(t, dir)) > 0 {
		t.Error("the move left something behind or lost the source")
	}
}

// TestUploadOntoMount writes to a file something is mounted on, which cannot be
// replaced by renaming.
func TestUploadOntoMount(t *testing.T) {
	testreq.Root(t)
	a := startSeparately(t, "mount")
	file := a.home + "/mounted"
	for _, content := range []string{"a longer content", "short"} {
		status, _, body := a.do(t, http.MethodPost, filesURL(file), content, "Content-Type", octets)
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		if _, _, got := a.do(t, http.MethodGet, filesURL(file), ""); got != content {
			t.Errorf("content %q, want %q", got, content)
		}
	}
	if left := leftovers(t, a.home); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestFileSizeLimit lets the agent meet RLIMIT_FSIZE.
func TestFileSizeLimit(t *testing.T) {
	a := startSeparately(t, "")
	limit := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
	must(t, unix.Prlimit(a.pid, unix.RLIMIT_FSIZE, &limit, nil))
	old := write(t, a.home+"/old", "old", 0o600)
	status, _, body := a.do(t, http.MethodPost, filesURL(old), strings.Repeat("x", 2<<20), "Content-Type", octets)
	wantError(t, "over the limit", status, body, http.StatusInsufficientStorage)
	if read(t, old) != "old" || len(leftovers(t, a.home)) > 0 {
		t.Error("the upload left something behind")
	}
}

// TestKernelFiles reads and writes files that have no length of their own.
func TestKernelFiles(t *testing.T) {
	a := startSeparately(t, "")
	status, h, body := a.do(t, http.MethodGet, filesURL("/sys/kernel/mm/transparent_hugepage/enabled"), "")
	if status == 404 {
		t.Skip("missing /sys/kernel/mm")
	}
	if status != 200 || !strings.Contains(body, "never") || h.Get("Content-Length") == "4096" {
		t.Errorf("read of sysfs: %d %q, %v", status, body, h)
	}
	own := fmt.Sprintf("/proc/%d/comm", a.pid)
	if status, _, body = a.do(t, http.MethodPost, filesURL(own), "renamed", "Content-Type", octets); status != 200 {
		t.Errorf("write of %s: %d %s", own, status, body)
	}
	if _, _, body = a.do(t, http.MethodGet, filesURL(own), ""); body != "renamed\n" {
		t.Errorf("read of %s: %q", own, body)
	}
	status, _, body = a.do(t, http.MethodPost, filesURL(own), "x", "Content-Type", octets, "X-Metadata-K", "v")
	wantError(t, "metadata", status, body, http.StatusNotImplemented)
}

// TestAbortedForm breaks the connection in the second file of a form.
func TestAbortedForm(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "f"), "old", 0o600)
	body, contentType := form(t, "file", dir+"/first", "1", file, strings.Repeat("x", 1<<20))
	conn, err := a.dial(t.Context(), "", "")
	must(t, err)
	_, err = fmt.Fprintf(conn, "POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", contentType, len(body), body[:len(body)/2])
	must(t, err)
	eventually(t, "the second file has begun", func() bool { return len(leftovers(t, dir)) == 1 })
	_ = conn.Close()
	eventually(t, "nothing is left behind", func() bool { return len(leftovers(t, dir)) == 0 })
	if read(t, file) != "old" || read(t, dir+"/first") != "1" {
		t.Error("the file before is not there, or the one cut off is")
	}
}

// TestRanges asks for parts of a file.
func TestRanges(t *testing.T) {
	a := startAgent(t)
	file := write(t, filepath.Join(t.TempDir(), "f"), "0123456789", 0o600)
	_, first, _ := a.do(t, http.MethodHead, filesURL(file), "")
	tag, modified := first.Get("Etag"), first.Get("Last-Modified")
	if tag == "" || modified == "" || first.Get("Accept-Ranges") != "bytes" {
		t.Fatalf("header %v", first)
	}
	for _, test := range []struct {
		header []string
		status int
		body   string
	}{
		{[]string{"Range", "bytes=2-4"}, 206, "234"},
		{[]string{"Range", "bytes=7-"}, 206, "789"},
		{[]string{"Range", "bytes=-2"}, 206, "89"},
		{[]string{"Range", "bytes=8-99"}, 206, "89"},
		{[]string{"Range", "bytes=10-"}, 416, ""},
		{[]string{"Range", "bytes=4-2"}, 416, ""},
		{[]string{"Range", "lines=1-2"}, 416, ""},
		{[]string{"Range", "bytes=2-4", "If-Range", tag}, 206, "234"},
		{[]string{"Range", "bytes=2-4", "If-Range", `"other"`}, 200, "0123456789"},
		{[]string{"Range", "bytes=2-4", "Accept-Encoding", "gzip"}, 206, "234"},
		{[]string{"If-Modified-Since", modified}, 304, ""},
		{[]string{"If-None-Match", tag}, 304, ""},
		{[]string{"If-Match", `"other"`}, 412, ""},
		{[]string{"Range", "bytes=0-99,0-99"}, 200, "0123456789"}, // more than the whole
	} {
		status, h, body := a.do(t, http.MethodGet, filesURL(file), "", test.header...)
		if status != test.status || status < 300 && body != test.body {
			t.Errorf("%v: %d %q %v, want %d %q", test.header, status, body, h, test.status, test.body)
		}
	}
	status, h, body := a.do(t, http.MethodGet, filesURL(file), "", "Range", "bytes=0-0,-1")
	if status != 206 || !strings.HasPrefix(h.Get("Content-Type"), "multipart/byteranges") || !strings.Contains(body, "bytes 9-9/10\r\n") {
		t.Errorf("two ranges: %d %q %v", status, body, h)
	}
	// The refusal of the identity beats the range.
	status, h, body = a.do(t, http.MethodGet, filesURL(file), "", "Range", "bytes=2-4", "Accept-Encoding", "gzip, identity;q=0")
	if status != 200 || h.Get("Content-Encoding") != "gzip" || h.Get("Content-Range") != "" || unzipped(t, body) != "0123456789" {
		t.Errorf("range of gzip: %d %q %v", status, body, h)
	}
	// A new version has a new tag, though the clock may not have moved.
	a.do(t, http.MethodPost, filesURL(file), "9876543210", "Content-Type", octets)
	if status, _, body = a.do(t, http.MethodGet, filesURL(file), "", "Range", "bytes=2-4", "If-Range", tag); status != 200 || body != "9876543210" {
		t.Errorf("range of the old version: %d %q", status, body)
	}
}

func unzipped(t *testing.T, s string) string {
	t.Helper()
	r, err := gzipReader(s)
	if err != nil {
		t.Error(err)
		return ""
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// TestUploadNames sends names as clients write them in forms.
func TestUploadNames(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	for written, want := range map[string]string{
		`sub/quote %22here%22.txt`: `sub/quote "here".txt`,
		`100%.txt`:                 `100%.txt`,
		`a%20b`:                    `a%20b`,
		`back\slash`:               `back\slash`,
		`two\\one`:                 `two\one`,
		`ü 😀.txt`:                  `ü 😀.txt`,
		`./x/../y//z`:              `y/z`,
	} {
		body := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" + dir + "/" + written + "\"\r\nContent-Type: application/octet-stream\r\n\r\ncontent\r\n--b--\r\n"
		status, _, reply := a.do(t, http.MethodPost, "/files", body, "Content-Type", "multipart/form-data; boundary=b")
		if got, err := os.ReadFile(filepath.Join(dir, want)); status != 200 || err != nil || string(got) != "content" {
			t.Errorf("%s: %d %s, %q, %v", written, status, reply, got, err)
		}
	}
	// The last of two with one name stays.
	body, contentType := form(t, "file", dir+"/twice", "1", dir+"/twice", "2")
	if status, _, reply := a.do(t, http.MethodPost, "/files", body, "Content-Type", contentType); status != 200 || read(t, dir+"/twice") != "2" || strings.Count(reply, "twice") != 4 {
		t.Errorf("a path twice: %d %s", status, reply)
	}
	status, _, reply := a.do(t, http.MethodPost, filesURL(dir+"/a")+"&path=b", "x", "Content-Type", octets)
	wantError(t, "two paths in the query", status, reply, 400)
}
