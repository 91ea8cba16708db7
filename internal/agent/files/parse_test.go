package files

import (
	"mime"
	"net/http"
	"strings"
	"testing"
)

func TestDisposition(t *testing.T) {
	for header, want := range map[string][2]string{
		`form-data; name="file"; filename="/home/user/a.txt"`:                       {"file", "/home/user/a.txt"},
		`form-data; name=file; filename=b`:                                          {"file", "b"},
		`form-data; name="file"; filename="ü/x"`:                                    {"file", "ü/x"},
		`form-data; name="file"; filename="a\"b"`:                                   {"file", `a"b`},
		`form-data; name="file"; filename="x"; filename*=UTF-8''%2Fdir%2Fn%C3%A4me`: {"file", "/dir/näme"},
		`form-data; name="file"`:                                                    {"file", ""},
		`attachment; name="file"; filename="x"`:                                     {"", ""},
		`form-data; name="file"; name="other"`:                                      {"", ""},
		``:                                                                          {"", ""},
	} {
		if field, name := disposition(header); field != want[0] || name != want[1] {
			t.Errorf("%s: %q, %q", header, field, name)
		}
	}
}

// FuzzDisposition checks that a name survives the way a client writes it, and
// that nothing panics.
func FuzzDisposition(f *testing.F) {
	f.Add("/home/user/a.txt", `form-data; name="file"; filename="x`)
	f.Add("a/../b", "form-data; name*0=fi; name*1=le; filename*=UTF-8''%zz")
	f.Add("ü\"\\", ";;;")
	f.Fuzz(func(t *testing.T, name, raw string) {
		disposition(raw)
		header := mime.FormatMediaType("form-data", map[string]string{"name": "file", "filename": name})
		if header == "" {
			return // no header can carry it
		}
		if field, got := disposition(header); field != "file" || got != name {
			t.Errorf("%q became %q by way of %s", name, got, header)
		}
	})
}

func TestMetadataFrom(t *testing.T) {
	h := http.Header{}
	if m, err := metadataFrom(h); m != nil || err != nil {
		t.Errorf("no headers: %v, %v", m, err)
	}
	h.Set("x-metadata-Owner", "me")
	h.Set("X-Metadata-"+strings.Repeat("k", maxMetadataKey), strings.Repeat("v", maxMetadata-maxMetadataKey-7))
	m, err := metadataFrom(h)
	if err != nil || len(m) != 2 || m["owner"] != "me" {
		t.Errorf("%v, %v", m, err)
	}
	h.Set("X-Metadata-One", "more")
	if _, err := metadataFrom(h); err == nil {
		t.Error("no limit of the total")
	}
}

func TestNegotiateMany(t *testing.T) {
	if got := negotiate([]string{"br", "identity;q=0", "gzip"}); got != "gzip" {
		t.Errorf("several headers: %q", got)
	}
	if got := negotiate(nil); got != "identity" {
		t.Errorf("no header: %q", got)
	}
}

func TestPermissions(t *testing.T) {
	for mode, want := range map[uint32]string{
		0o100644: "-rw-r--r--", 0o040755: "drwxr-xr-x", 0o120777: "lrwxrwxrwx", 0o041777: "drwxrwxrwt", 0o041776: "drwxrwxrwT",
		0o104755: "-rwsr-xr-x", 0o102644: "-rw-r-Sr--", 0o010600: "prw-------", 0o140755: "srwxr-xr-x", 0o020666: "crw-rw-rw-", 0o060660: "brw-rw----",
	} {
		if got := permissions(mode); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}
