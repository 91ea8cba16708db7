package account

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

const passwdText = `# a comment
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
short:x:2
bad:x:notanumber:1::/:/bin/sh
minus:x:-1:1::/:/bin/sh
big:x:4294967295:1::/:/bin/sh
+nis::::::
user:x:1000:1000:A User,,,:/home/user:/bin/bash
bare:x:1001:1001:::
user:x:2000:2000:second:/other:/bin/sh
`

const groupText = `root:x:0:
adm:x:4:user,root
sudo:x:27:user
sudo:x:27:user
user:x:1000:
bare:x:1001:user,,bare
broken:x:y:user
`

// files writes both account files and returns a DB over them.
func files(t testing.TB, passwd, group string) (*DB, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return New(filepath.Join(dir, "passwd"), filepath.Join(dir, "group")), dir
}

func TestLookup(t *testing.T) {
	db, _ := files(t, passwdText, groupText)
	for name, want := range map[string]User{
		"root": {Name: "root", Home: "/root", Shell: "/bin/bash", Groups: []uint32{4}},
		"user": {Name: "user", UID: 1000, GID: 1000, Groups: []uint32{4, 27, 1001}, Home: "/home/user", Shell: "/bin/bash"},
		"1000": {Name: "user", UID: 1000, GID: 1000, Groups: []uint32{4, 27, 1001}, Home: "/home/user", Shell: "/bin/bash"},
		"bare": {Name: "bare", UID: 1001, GID: 1001, Home: "/", Shell: "/bin/sh"},
	} {
		got, err := db.Lookup(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	for _, name := range []string{"", "short", "bad", "minus", "big", "+nis", "# a comment", "999", "-1", "root:x"} {
		if _, err := db.Lookup(name); !errs.Is(err, errs.Unauthenticated) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNames(t *testing.T) {
	db, _ := files(t, passwdText, groupText)
	user, group := db.Names()
	for range 2 {
		for id, want := range map[uint32]string{0: "root", 1000: "user", 5: "5", 4294967295: "4294967295"} {
			if got := user(id); got != want {
				t.Errorf("user %d is %q, want %q", id, got, want)
			}
		}
		if got := group(27) + group(4) + group(5); got != "sudoadm5" {
			t.Errorf("groups %q", got)
		}
	}
}

// TestChange adds a user to a running sandbox.
func TestChange(t *testing.T) {
	db, dir := files(t, passwdText, groupText)
	if _, err := db.Lookup("new"); err == nil {
		t.Fatal("new exists already")
	}
	path := filepath.Join(dir, "passwd")
	if err := os.WriteFile(path, []byte(passwdText+"new:x:3000:3000::/home/new:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Second)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if u, err := db.Lookup("new"); err != nil || u.UID != 3000 {
		t.Errorf("%v, %v", u, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Lookup("root"); err == nil {
		t.Error("root is known without a passwd file")
	}
}

func TestFromAuthorization(t *testing.T) {
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for header, want := range map[string]string{
		"":                               "",
		"Basic " + encode("root:"):       "root",
		"basic " + encode("user:secret"): "user",
		"Basic " + encode("user"):        "user",
		"Basic " + encode(":"):           "",
		"Bearer abc":                     "",
	} {
		if got, err := FromAuthorization(header); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", header, got, err, want)
		}
	}
	if _, err := FromAuthorization("Basic %%%"); !errs.Is(err, errs.Unauthenticated) {
		t.Errorf("not base64: %v", err)
	}
}

func TestExpand(t *testing.T) {
	u := User{Home: "/home/user"}
	for path, want := range map[string]string{
		"":             "/home/user",
		".":            "/home/user",
		"~":            "/home/user",
		"~/":           "/home/user",
		"~/a/../b":     "/home/user/b",
		"~root":        "/home/user/~root",
		"a":            "/home/user/a",
		"../../../etc": "/etc",
		"/a//b/./c/..": "/a/b",
		"/..":          "/",
	} {
		if got := Expand(path, u); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}

// FuzzParse looks for panics and for entries no kernel would take.
func FuzzParse(f *testing.F) {
	f.Add(passwdText, groupText)
	f.Add("a:b:1:2:c:d:e", "a:b:1:a,a,,b")
	f.Add(":::::::\n\x00:x:1:1:::\r\n", strings.Repeat("g:x:1:u\n", 100))
	f.Fuzz(func(t *testing.T, passwd, group string) {
		groups := parseGroup(group)
		for _, u := range parsePasswd(passwd) {
			if u.Name == "" || u.Home == "" || u.Shell == "" || u.UID == ^uint32(0) || u.GID == ^uint32(0) {
				t.Errorf("entry %+v", u)
			}
			if strings.ContainsAny(u.Name+u.Home+u.Shell, ":\n\x00") {
				t.Errorf("separators in %+v", u)
			}
			for _, id := range supplementary(groups, u) {
				if id == u.GID {
					t.Errorf("the own group is supplementary: %+v", u)
				}
			}
		}
	})
}
