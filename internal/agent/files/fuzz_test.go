package files

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
)

// FuzzPath checks that every path a client can send becomes an absolute clean
// one or an error, and that a resolved path stays what it is.
func FuzzPath(f *testing.F) {
	for _, path := range []string{"", "~", "~/x", "~root", "..", "../../../etc", "/", "//", "/./a/../../b", "a\x00b", "\xff\xfe", strings.Repeat("../", 1400), strings.Repeat("x", 4096), "-rf", "a\nb"} {
		f.Add(path)
	}
	user := account.User{Name: "user", Home: "/home/user"}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := resolve(path, user)
		if strings.Contains(path, "\x00") {
			if err == nil {
				t.Errorf("%q: a NUL byte passed", path)
			}
			return
		}
		if err != nil || !filepath.IsAbs(got) || filepath.Clean(got) != got {
			t.Fatalf("%q: %q, %v", path, got, err)
		}
		if again, err := resolve(got, user); err != nil || again != got {
			t.Errorf("%q: %q, then %q, %v", path, got, again, err)
		}
		if filepath.IsAbs(path) && strings.HasSuffix(path, "/name") && filepath.Base(got) != "name" {
			t.Errorf("%q lost its last part: %q", path, got)
		}
	})
}

// FuzzMetadata checks that what is taken from headers is what a file can carry
// and a reply can say.
func FuzzMetadata(f *testing.F) {
	f.Add("X-Metadata-Author", "me", "X-Metadata-author", "you")
	f.Add("X-Metadata-", "", "X-Metadata-ü", "ü")
	f.Add("X-Metadata-"+strings.Repeat("k", 246), strings.Repeat("v", 4096), "Other", "\x00")
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2 string) {
		h := http.Header{}
		h.Add(key1, value1)
		h.Add(key2, value2)
		m, err := metadataFrom(h)
		if err != nil {
			return
		}
		total := 0
		for key, value := range m {
			total += len(key) + len(value)
			if key == "" || key != strings.ToLower(key) || len(xattrPrefix+key) > 255 || !printable(key) || !printable(value) {
				t.Errorf("%q: %q", key, value)
			}
		}
		if total > maxMetadata {
			t.Errorf("%d bytes", total)
		}
	})
}

// FuzzComposition checks the paths of a request to join files; it joins none.
func FuzzComposition(f *testing.F) {
	f.Add(`{"source_paths":["a","b"],"destination":"c","username":"user"}`)
	f.Add(`{"source_paths":["a","./a"],"destination":"/"}`)
	f.Add(`{"source_paths":[null,1],"destination":{}}`)
	f.Add("{\"source_paths\":[\"\\u0000\"],\"destination\":\"\xff\"}")
	f.Fuzz(func(t *testing.T, body string) {
		var c composition
		if json.Unmarshal([]byte(body), &c) != nil || c.resolve(account.User{Home: "/home/user"}) != nil {
			return
		}
		seen := map[string]bool{}
		for _, path := range append(c.Sources, c.Destination) {
			if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.Contains(path, "\x00") {
				t.Errorf("path %q", path)
			}
		}
		for _, path := range c.Sources {
			if seen[path] {
				t.Errorf("%q twice", path)
			}
			seen[path] = true
		}
		if len(seen) == 0 {
			t.Error("no sources")
		}
	})
}

// FuzzUpload sends anything as the body of an upload to one file: it is written
// whole or not at all, and nothing else appears. The query names the file, so
// that the fuzzer chooses no other.
func FuzzUpload(f *testing.F) {
	const form = "multipart/form-data; boundary=b"
	head := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"
	f.Add(form, "", head+"content\r\n--b--\r\n")
	f.Add(form, "", head+"content\r\n--b\r\n"+head)
	f.Add(form, "gzip", head)
	f.Add(form, "", strings.Repeat(head+"\r\n", 20))
	f.Add("multipart/form-data", "", "--\r\n")
	f.Add("application/octet-stream", "gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00")
	f.Add("application/octet-stream; boundary=", "identity", "x")
	named := func(string) (account.User, error) { return account.User{Name: "user", Home: "/nowhere"}, nil }
	s := New(Options{Logger: slog.New(slog.DiscardHandler), Accounts: account.New("", ""), User: named, Named: named})
	f.Fuzz(func(t *testing.T, contentType, encoding, body string) {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "/files?path="+url.QueryEscape(path), strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		s.Upload(w, r)
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("%d files, %v", len(entries), err)
		}
		got, err := os.ReadFile(path)
		// A form with two files is refused after the first.
		if err != nil || w.Code != http.StatusOK && string(got) != "old" && !strings.Contains(w.Body.String(), "several files") && !strings.Contains(w.Body.String(), "files before it") {
			t.Errorf("%d %s, but the file is %.100q, %v", w.Code, w.Body, got, err)
		}
		if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}
