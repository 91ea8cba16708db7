package agent_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func filesURL(path string) string { return "/files?path=" + url.QueryEscape(path) }

const octets = "application/octet-stream"

// form builds a multipart body from pairs of field's filename and content.
func form(t testing.TB, field string, files ...string) (body, contentType string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		part, err := w.CreatePart(textproto.MIMEHeader{
			"Content-Disposition": {fmt.Sprintf(`form-data; name=%q; filename=%q`, field, files[i])},
		})
		must(t, err)
		_, _ = io.WriteString(part, files[i+1])
	}
	must(t, w.Close())
	return b.String(), w.FormDataContentType()
}

func zipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	must(t, w.Close())
	return b.String()
}

func TestDownload(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "f ü.txt"), "0123456789", 0o600)
	empty := write(t, filepath.Join(dir, "empty"), "", 0o600)
	big := write(t, filepath.Join(dir, "big"), strings.Repeat("0123456789abcdef", 1<<18), 0o600)

	status, h, body := a.do(t, http.MethodGet, filesURL(file), "")
	if status != 200 || body != "0123456789" || h.Get("Content-Length") != "10" {
		t.Errorf("file: %d %q, %v", status, body, h)
	}
	if _, _, body := a.do(t, http.MethodGet, filesURL(big), ""); body != read(t, big) {
		t.Errorf("big file: %d bytes differ", len(body))
	}
	status, h, body = a.do(t, http.MethodGet, filesURL(empty), "")
	if status != 200 || body != "" || h.Get("Content-Length") != "0" {
		t.Errorf("empty file: %d %q, %v", status, body, h)
	}
	status, h, body = a.do(t, http.MethodHead, filesURL(file), "")
	if status != 200 || body != "" || h.Get("Content-Length") != "10" {
		t.Errorf("head: %d %q, %v", status, body, h)
	}
	status, h, body = a.do(t, http.MethodGet, filesURL(big), "", "Range", "bytes=16-31")
	if status != 206 || body != "0123456789abcdef" || h.Get("Content-Range") != "bytes 16-31/4194304" {
		t.Errorf("range: %d %q, %v", status, body, h)
	}
	if status, _, body = a.do(t, http.MethodGet, filesURL("/proc/self/limits"), ""); status != 200 || !strings.HasPrefix(body, "Limit") {
		t.Errorf("a file of /proc: %d %q", status, body)
	}
}

func TestDownloadRefused(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	for what, test := range map[string]struct {
		path   string
		status int
	}{
		"missing":      {filesURL(dir + "/none"), 404},
		"directory":    {filesURL(dir), 400},
		"named pipe":   {filesURL(fifo), 400},
		"device":       {filesURL("/dev/null"), 400},
		"no path":      {"/files", 400},
		"NUL":          {filesURL("/a\x00b"), 400},
		"unknown user": {filesURL(dir) + "&username=nobody-of-that-name", 401},
		"too long":     {filesURL("/" + strings.Repeat("x", 300)), 400},
	} {
		status, _, body := a.do(t, http.MethodGet, test.path, "")
		wantError(t, what, status, body, test.status)
	}
}

func TestAcceptEncoding(t *testing.T) {
	a := startAgent(t)
	file := write(t, filepath.Join(t.TempDir(), "f"), "content", 0o600)
	for accept, want := range map[string]string{
		"":                         "identity",
		"gzip":                     "gzip", // the SDK's option gzip
		"x-gzip;q=0.5":             "gzip",
		"gzip, identity":           "identity",
		"gzip, identity;q=0.5":     "gzip",
		"gzip, *":                  "identity",
		"gzip, deflate":            "identity", // what HTTP libraries send unasked
		"gzip, deflate, br":        "identity",
		"gzip;q=0":                 "identity",
		"identity":                 "identity",
		"br":                       "identity",
		"*":                        "identity",
		"gzip, identity;q=0":       "gzip",
		"*;q=0, gzip":              "gzip",
		"identity;q=0, *":          "gzip",
		"br, identity;q=0":         "406",
		"*;q=0":                    "406",
		"br;q=1, *;q=0":            "406",
		"identity;q=0,gzip;q=0.0":  "406",
		"IDENTITY ; q=0.5, *; q=0": "identity",
	} {
		var header []string
		if accept != "" {
			header = []string{"Accept-Encoding", accept}
		}
		status, h, body := a.do(t, http.MethodGet, filesURL(file), "", header...)
		if h.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: Vary is %q", accept, h.Get("Vary"))
		}
		switch want {
		case "406":
			wantError(t, accept, status, body, 406)
		case "gzip":
			r, err := gzip.NewReader(strings.NewReader(body))
			if err != nil || h.Get("Content-Encoding") != "gzip" {
				t.Errorf("%s: %d %q %v", accept, status, body, h)
				continue
			}
			if got, err := io.ReadAll(r); err != nil || string(got) != "content" {
				t.Errorf("%s: %q, %v", accept, got, err)
			}
		default:
			if status != 200 || body != "content" || h.Get("Content-Encoding") != "" {
				t.Errorf("%s: %d %q %v", accept, status, body, h)
			}
		}
	}
}

func TestUploadOctets(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "new/dir/f.bin")
	status, _, body := a.do(t, http.MethodPost, filesURL(path), "one\x00\xff", "Content-Type", octets)
	if want := fmt.Sprintf(`[{"path":%q,"name":"f.bin","type":"file"}]`+"\n", path); status != 200 || body != want {
		t.Errorf("%d %q, want %q", status, body, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 || read(t, path) != "one\x00\xff" {
		t.Errorf("%v, %v", info, err)
	}
	must(t, os.Chmod(path, 0o750))
	status, _, body = a.do(t, http.MethodPost, filesURL(path), zipped(t, "two"), "Content-Type", octets, "Content-Encoding", "gzip")
	if info, err = os.Stat(path); status != 200 || err != nil || info.Mode() != 0o750 || read(t, path) != "two" {
		t.Errorf("replaced: %d %s %v, %v", status, body, info, err)
	}
	if status, _, _ = a.do(t, http.MethodPost, filesURL(path), "", "Content-Type", octets); status != 200 || read(t, path) != "" {
		t.Errorf("empty: %d", status)
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func leftovers(t *testing.T, dir string) (found []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), "sandlot") && path != dir {
			found = append(found, path)
		}
		return err
	}))
	return found
}

func TestUploadForm(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	one, two := filepath.Join(dir, "a/one.txt"), filepath.Join(dir, "b/c/two ü.txt")
	body, contentType := form(t, "file", one, "1", two, strings.Repeat("2", 1<<20))
	status, _, reply := a.do(t, http.MethodPost, "/files", body, "Content-Type", contentType)
	if status != 200 || read(t, one) != "1" || len(read(t, two)) != 1<<20 || strings.Count(reply, `"type":"file"`) != 2 {
		t.Errorf("%d %s", status, reply)
	}
	// The query's path beats the file name.
	body, contentType = form(t, "file", "ignored", "3")
	if status, _, reply = a.do(t, http.MethodPost, filesURL(one), body, "Content-Type", contentType); status != 200 || read(t, one) != "3" {
		t.Errorf("with a path: %d %s", status, reply)
	}
}

func TestUploadThroughLinks(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "f"), "old", 0o600)
	must(t, os.Symlink("f", filepath.Join(dir, "link")))
	must(t, os.Symlink("not/yet", filepath.Join(dir, "dangling")))
	must(t, os.Symlink("self", filepath.Join(dir, "self")))
	a.do(t, http.MethodPost, filesURL(dir+"/link"), "new", "Content-Type", octets)
	if info, err := os.Lstat(dir + "/link"); err != nil || info.Mode().Type() != os.ModeSymlink || read(t, file) != "new" {
		t.Errorf("through a link: %v, %v", info, err)
	}
	a.do(t, http.MethodPost, filesURL(dir+"/dangling"), "made", "Content-Type", octets)
	if got := read(t, dir+"/not/yet"); got != "made" {
		t.Errorf("through a dangling link: %q", got)
	}
	status, _, body := a.do(t, http.MethodPost, filesURL(dir+"/self"), "x", "Content-Type", octets)
	wantError(t, "a link to itself", status, body, 400)
	if status, _, body := a.do(t, http.MethodPost, filesURL("/dev/null"), "gone", "Content-Type", octets); status != 200 {
		t.Errorf("device: %d %s", status, body)
	}
}

func TestUploadRefused(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "f"), "old", 0o600)
	several, several2 := form(t, "file", "a", "1", "b", "2")
	other, other2 := form(t, "picture", "a", "1")
	nameless, nameless2 := form(t, "file", "", "1")
	for what, test := range map[string]struct {
		path, body string
		header     []string
		status     int
	}{
		"directory":          {filesURL(dir), "x", []string{"Content-Type", octets}, 400},
		"trailing slash":     {filesURL(dir + "/new/"), "x", []string{"Content-Type", octets}, 400},
		"below a file":       {filesURL(file + "/x"), "x", []string{"Content-Type", octets}, 400},
		"no path":            {"/files", "x", []string{"Content-Type", octets}, 400},
		"unknown user":       {filesURL(file) + "&username=nobody-of-that-name", "x", []string{"Content-Type", octets}, 401},
		"not gzip":           {filesURL(file), "plain", []string{"Content-Type", octets, "Content-Encoding", "gzip"}, 400},
		"cut gzip":           {filesURL(file), zipped(t, strings.Repeat("x", 1000))[:20], []string{"Content-Type", octets, "Content-Encoding", "gzip"}, 400},
		"unknown encoding":   {filesURL(file), "x", []string{"Content-Type", octets, "Content-Encoding", "br"}, 400},
		"unknown type":       {filesURL(file), "x", []string{"Content-Type", "text/html"}, 400},
		"no boundary":        {filesURL(file), "x", []string{"Content-Type", "multipart/form-data"}, 400},
		"cut form":           {"/files", several[:len(several)/2], []string{"Content-Type", several2}, 400},
		"several, one path":  {filesURL(dir + "/g"), several, []string{"Content-Type", several2}, 400},
		"no field file":      {"/files", other, []string{"Content-Type", other2}, 400},
		"no name at all":     {"/files", nameless, []string{"Content-Type", nameless2}, 400},
		"metadata not ASCII": {filesURL(file), "x", []string{"Content-Type", octets, "X-Metadata-K", "\xff"}, 400},
		"metadata too long":  {filesURL(file), "x", []string{"Content-Type", octets, "X-Metadata-K", strings.Repeat("v", 4096)}, 400},
		"metadata key":       {filesURL(file), "x", []string{"Content-Type", octets, "X-Metadata-" + strings.Repeat("k", 247), "v"}, 400},
	} {
		status, _, body := a.do(t, http.MethodPost, test.path, test.body, test.header...)
		wantError(t, what, status, body, test.status)
	}
	if got := read(t, file); got != "old" {
		t.Errorf("a refused upload changed the file to %q", got)
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestUploadWithoutSpace(t *testing.T) {
	a := startAgent(t)
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skipf("missing /dev/full: %v", err)
	}
	status, _, body := a.do(t, http.MethodPost, filesURL("/dev/full"), strings.Repeat("x", 1<<20), "Content-Type", octets)
	wantError(t, "full disk", status, body, 507)
}

func TestMetadata(t *testing.T) {
	a := startAgent(t)
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "", 0o600)
	if err := unix.Setxattr(path, "user.e2b.old", []byte("x"), 0); err != nil {
		t.Skipf("missing extended attributes in the temporary directory: %v", err)
	}
	status, _, body := a.do(t, http.MethodPost, filesURL(path), "x", "Content-Type", octets, "X-Metadata-Author", "me", "x-metadata-CASE", "Kept")
	if status != 200 || !strings.Contains(body, `"metadata":{"author":"me","case":"Kept"}`) {
		t.Errorf("%d %s", status, body)
	}
	e, err := a.stat(t, path)
	must(t, err)
	if d := cmp.Diff(map[string]string{"author": "me", "case": "Kept"}, e.GetMetadata()); d != "" {
		t.Errorf("metadata (-want +got):\n%s", d)
	}
}

// TestAbortedUpload breaks the connection in the middle of a body.
func TestAbortedUpload(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "f"), "old", 0o600)
	conn, err := a.dial(t.Context(), "", "")
	must(t, err)
	_, err = io.WriteString(conn, "POST "+filesURL(file)+" HTTP/1.1\r\nHost: x\r\nContent-Type: "+octets+"\r\nContent-Length: 1000\r\n\r\npart")
	must(t, err)
	eventually(t, "the upload has begun", func() bool { return len(leftovers(t, dir)) == 1 })
	_ = conn.Close()
	eventually(t, "nothing is left behind", func() bool { return len(leftovers(t, dir)) == 0 })
	if got := read(t, file); got != "old" {
		t.Errorf("content %q", got)
	}
}

// BenchmarkDownload and BenchmarkUpload move 256 MiB.
func BenchmarkDownload(b *testing.B) {
	a := startAgent(b)
	const size = 256 << 20
	path := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	buf := make([]byte, 1<<20)
	for b.Loop() {
		res, err := a.http.Get(base + filesURL(path))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buf)
		if err != nil || n != size {
			b.Fatal(n, err)
		}
		_ = res.Body.Close()
	}
}

func BenchmarkUpload(b *testing.B) {
	a := startAgent(b)
	const size = 256 << 20
	path := filepath.Join(b.TempDir(), "f")
	content := make([]byte, size)
	b.SetBytes(size)
	for b.Loop() {
		res, err := a.http.Post(base+filesURL(path), octets, bytes.NewReader(content))
		if err != nil || res.StatusCode != 200 {
			b.Fatal(res, err)
		}
		_ = res.Body.Close()
	}
}

// BenchmarkUploadForm writes 10,000 files of 1 KiB in forms of 100.
func BenchmarkUploadForm(b *testing.B) {
	a := startAgent(b)
	dir := b.TempDir()
	var bodies []string
	contentType := ""
	for batch := range 100 {
		files := make([]string, 0, 200)
		for i := range 100 {
			files = append(files, fmt.Sprintf("%s/%02d/%02d.txt", dir, batch, i), strings.Repeat("x", 1<<10))
		}
		var body string
		body, contentType = form(b, "file", files...)
		bodies = append(bodies, strings.ReplaceAll(body, contentType[len("multipart/form-data; boundary="):], "boundary"))
	}
	for b.Loop() {
		for _, body := range bodies {
			res, err := a.http.Post(base+"/files", "multipart/form-data; boundary=boundary", strings.NewReader(body))
			if err != nil || res.StatusCode != http.StatusOK {
				b.Fatal(res, err)
			}
			_ = res.Body.Close()
		}
	}
	b.ReportMetric(10_000*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

// The longest path there may be can be written to, new and again, and one more
// byte cannot.
func TestLongestPath(t *testing.T) {
	a := startAgent(t)
	path := t.TempDir()
	for len(path) < 4095-202 {
		path += "/" + strings.Repeat("d", 200)
	}
	path += "/" + strings.Repeat("f", 4095-len(path)-1)
	for _, content := range []string{"new", "again"} {
		status, _, body := a.do(t, http.MethodPost, filesURL(path), content, "Content-Type", octets)
		if status != http.StatusOK || read(t, path) != content {
			t.Fatalf("%s: %d %.300s", content, status, body)
		}
	}
	if status, _, body := a.do(t, http.MethodPost, filesURL(path+"x"), "x", "Content-Type", octets); status != http.StatusBadRequest {
		t.Errorf("a longer path: %d %.300s", status, body)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("%d entries beside it", len(entries)-1)
	}
}
