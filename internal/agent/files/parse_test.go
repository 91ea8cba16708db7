package files

import (
	"net/http"
	"strings"
	"testing"
)

func TestDisposition(t *testing.T) {
	for header, want := range map[string][2]string{
		`form-data; name="file"; filename="/home/user/a.txt"`:                       {"file", "/home/user/a.txt"},
		`form-data; name=file; filename=b`:                                          {"file", "b"},
		`FORM-DATA;name="file";FileName="b"`:                                        {"file", "b"},
		`form-data; name="file"; filename="ü/x"`:                                    {"file", "ü/x"},
		`form-data; name="file"; filename="a;b=c; d"`:                               {"file", "a;b=c; d"},
		`form-data; name="file"; filename="a\"b"`:                                   {"file", `a"b`},
		`form-data; name="file"; filename="a\""`:                                    {"file", `a"`},
		`form-data; name="file"; filename="say %22hi%22%0D%0A.txt"`:                 {"file", "say \"hi\"\r\n.txt"},
		`form-data; name="file"; filename="100% a%20b %C3%A4 %2F %"`:                {"file", `100% a%20b %C3%A4 %2F %`},
		`form-data; name="file"; filename="/c\d\e f\/g"`:                            {"file", `/c\d\e f\/g`},
		`form-data; name="file"; filename="/httpx\\x"`:                              {"file", `/httpx\x`},
		`form-data; name="file"; filename="/node\"`:                                 {"file", `/node\`},
		`form-data; name="file"; filename="x\"; name2=y`:                            {"file", `x\`},
		`form-data; name="file"; filename="open`:                                    {"file", "open"},
		`form-data; name="file"; filename="x"; filename*=UTF-8''%2Fdir%2Fn%C3%A4me`: {"file", "/dir/näme"},
		`form-data; name="file"; filename="x"; filename*=latin1''%E4`:               {"file", "x"},
		`form-data; name="file"; filename="x"; filename*=UTF-8''%zz`:                {"file", "x"},
		`form-data; name="file"`:                                                    {"file", ""},
		`form-data; ; file; name="file"; `:                                          {"file", ""},
		`attachment; name="file"; filename="x"`:                                     {"", ""},
		`form-data; name="file"; name="other"`:                                      {"", ""},
		``:                                                                          {"", ""},
	} {
		if field, name := disposition(header); field != want[0] || name != want[1] {
			t.Errorf("%s: %q, %q, want %q", header, field, name, want)
		}
	}
}

// FuzzDisposition checks that a name survives the ways clients write it, and
// that nothing panics.
func FuzzDisposition(f *testing.F) {
	f.Add("/home/user/a.txt", `form-data; name="file"; filename="x`)
	f.Add("a/../b", "form-data; name*0=fi; name*1=le; filename*=UTF-8''%zz")
	f.Add("ü\"\\", ";;;")
	f.Add("\\\\server\\share", `form-data; name="file"; filename="a\`)
	node := strings.NewReplacer("\n", "%0A", "\r", "%0D", `"`, "%22")
	python := strings.NewReplacer("\n", "%0A", "\r", "%0D", "\t", "%09", `"`, "%22", `\`, `\\`)
	plain := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	f.Fuzz(func(t *testing.T, name, raw string) {
		disposition(raw)
		if unescape(name) != name || strings.Contains(name, `"; `) || strings.HasSuffix(name, `"`) {
			return // written as it is it reads as another
		}
		written := []string{python.Replace(name), plain.Replace(name)}
		if !strings.Contains(name, `\\`) { // which httpx writes for one
			written = append(written, node.Replace(name))
		}
		for _, w := range written {
			header := `form-data; name="file"; filename="` + w + `"`
			if field, got := disposition(header); field != "file" || got != name {
				t.Errorf("%q became %q by way of %s", name, got, header)
			}
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
	if got := negotiate([]string{"br", "identity;q=0", "gzip"}); got != (codings{gzip: true}) {
		t.Errorf("several headers: %+v", got)
	}
	if got := negotiate(nil); got != (codings{identity: true}) {
		t.Errorf("no header: %+v", got)
	}
}

// FuzzNegotiate checks that what was refused is not sent.
func FuzzNegotiate(f *testing.F) {
	for _, header := range []string{"", "gzip", "gzip, deflate, br", "*;q=0", "identity;q=0, gzip;q=NaN", "gzip;q=1e400;q=0", ",;=,;q", "*;q=0,*;q=1"} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		got := negotiate([]string{header})
		if got.wantsGzip && !got.gzip {
			t.Errorf("%q wants what it does not take", header)
		}
		if again := negotiate([]string{header + ", br;q=0.1"}); again.identity != got.identity || again.gzip != got.gzip || again.wantsGzip {
			t.Errorf("%q: %+v, with another coding %+v", header, got, again)
		}
		if none := negotiate([]string{header + ",identity;q=0"}); none.identity {
			t.Errorf("%q: identity sent to whom refuses it", header)
		}
	})
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
