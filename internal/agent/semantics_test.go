package agent_test

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// TestMoveOnto moves onto what exists, of every kind.
func TestMoveOnto(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write(t, path("f"), "f", 0o600)
	write(t, path("g"), "g", 0o600)
	must(t, os.Symlink("g", path("link")))
	for _, name := range []string{"d", "empty"} {
		must(t, os.Mkdir(path(name), 0o755))
	}
	must(t, a.move(t, path("f"), path("f")))
	if read(t, path("f")) != "f" {
		t.Error("a move onto itself changed the file")
	}
	wantCode(t, "a file onto a directory", a.move(t, path("f"), path("d")), connect.CodeInvalidArgument)
	wantCode(t, "a directory onto a file", a.move(t, path("d"), path("f")), connect.CodeInvalidArgument)
	wantCode(t, "a directory into itself", a.move(t, path("d"), path("d/x")), connect.CodeInvalidArgument)
	wantCode(t, "everything into something", a.move(t, "/", path("x")), connect.CodeInvalidArgument)
	wantCode(t, "below a file", a.move(t, path("d"), path("f/x")), connect.CodeInvalidArgument)
	must(t, a.move(t, path("d"), path("empty")))
	// A link is what is moved, and what is replaced, not where it leads.
	must(t, a.move(t, path("link"), path("link2")))
	if target, err := os.Readlink(path("link2")); err != nil || target != "g" {
		t.Errorf("the moved link leads to %q, %v", target, err)
	}
	must(t, a.move(t, path("f"), path("link2")))
	if read(t, path("link2")) != "f" || read(t, path("g")) != "g" {
		t.Error("a move onto a link went through it")
	}
}

// TestMoveKeepsMetadata moves a file on its disk and to another.
func TestMoveKeepsMetadata(t *testing.T) {
	a := startAgent(t)
	file := write(t, filepath.Join(t.TempDir(), "f"), "", 0o600)
	shm, err := os.MkdirTemp("/dev/shm", "sandlot")
	if err != nil {
		t.Skipf("missing a second file system at /dev/shm: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	for _, dir := range []string{filepath.Dir(file), shm} {
		if err := unix.Setxattr(dir, "user.e2b.test", nil, 0); err != nil {
			t.Skipf("missing extended attributes in %s: %v", dir, err)
		}
	}
	want := map[string]string{"k": "v"}
	a.do(t, http.MethodPost, filesURL(file), "x", "Content-Type", octets, "X-Metadata-K", "v")
	for _, to := range []string{file + "2", shm + "/f"} {
		must(t, a.move(t, file, to))
		e, err := a.stat(t, to)
		must(t, err)
		if d := cmp.Diff(want, e.GetMetadata()); d != "" {
			t.Errorf("%s (-want +got):\n%s", to, d)
		}
		entries, err := a.listDir(t, filepath.Dir(to), 1)
		must(t, err)
		if len(entries) != 1 || cmp.Diff(want, entries[0].GetMetadata()) != "" {
			t.Errorf("listed as %v", entries)
		}
		file = to
	}
	// Written again without metadata it has none.
	a.do(t, http.MethodPost, filesURL(file), "x", "Content-Type", octets)
	if e, err := a.stat(t, file); err != nil || len(e.GetMetadata()) > 0 {
		t.Errorf("after a write without: %v, %v", e, err)
	}
}

// TestRemoveLink removes a link and not what it leads to.
func TestRemoveLink(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	inside := write(t, filepath.Join(dir, "d/f"), "kept", 0o600)
	must(t, os.Symlink("d", filepath.Join(dir, "link")))
	for _, name := range []string{"link/", "link", "none/at/all"} {
		must(t, a.remove(t, filepath.Join(dir, name)))
	}
	if read(t, inside) != "kept" {
		t.Error("removed through the link")
	}
	wantCode(t, "make a directory where a link to one is", func() error {
		must(t, os.Symlink("d", filepath.Join(dir, "again")))
		return a.makeDir(t, filepath.Join(dir, "again"))
	}(), connect.CodeAlreadyExists)
	wantCode(t, "the root", a.makeDir(t, "/"), connect.CodeAlreadyExists)
}

// TestNamesNotText works on a file whose name is not UTF-8. JSON and protobuf
// cannot say it: it is shown with U+FFFD, transfers reach it by its bytes in the
// query, and its directory can be moved and removed.
func TestNamesNotText(t *testing.T) {
	a := startAgent(t)
	dir := filepath.Join(t.TempDir(), "d")
	write(t, dir+"/a\xffb", "content", 0o600)
	entries, err := a.listDir(t, dir, 1)
	if err != nil || len(entries) != 1 || entries[0].GetName() != "a\uFFFDb" || entries[0].GetPath() != dir+"/a\uFFFDb" {
		t.Errorf("listed %v, %v", entries, err)
	}
	if status, _, body := a.do(t, http.MethodGet, filesURL(dir+"/a\xffb"), ""); status != 200 || body != "content" {
		t.Errorf("read: %d %q", status, body)
	}
	_, err = a.stat(t, dir+"/a\uFFFDb")
	wantCode(t, "by the name shown", err, connect.CodeNotFound)
	must(t, a.move(t, dir, dir+"2"))
	must(t, a.remove(t, dir+"2"))
}

// TestRootsRight fixes what acting as a user means: the agent's own rights, and
// the user's name on what is made. E2B's agent does the same.
func TestRootsRight(t *testing.T) {
	testreq.Root(t)
	a := startAgent(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o700)) // root's alone
	secret := write(t, dir+"/secret", "root's", 0o600)
	authorization := "Basic " + base64.StdEncoding.EncodeToString([]byte("daemon:"))
	if status, _, body := a.do(t, http.MethodGet, filesURL(secret), "", "Authorization", authorization); status != 200 || body != "root's" {
		t.Errorf("read: %d %q", status, body)
	}
	a.do(t, http.MethodPost, filesURL(secret), "daemon's", "Authorization", authorization, "Content-Type", octets)
	var st syscall.Stat_t
	must(t, syscall.Stat(secret, &st))
	if st.Uid != 1 || st.Mode&0o777 != 0o600 || read(t, secret) != "daemon's" {
		t.Errorf("written: owner %d, mode %o", st.Uid, st.Mode)
	}
	req := connect.NewRequest(&pb.StatRequest{Path: secret})
	req.Header().Set("Authorization", authorization)
	if res, err := a.fs.Stat(t.Context(), req); err != nil || res.Msg.GetEntry().GetOwner() != "daemon" || res.Msg.GetEntry().GetGroup() != "daemon" {
		t.Errorf("stat: %v, %v", res, err)
	}
}

// TestSignedRequestsUser checks that who was given a signed URL cannot choose
// another user by a header: the signature covers the query alone.
func TestSignedRequestsUser(t *testing.T) {
	a := startAgent(t)
	write(t, a.home+"/f", "home", 0o600)
	unknown := "Basic " + base64.StdEncoding.EncodeToString([]byte("nobody-of-that-name:"))
	if status, _, body := a.do(t, http.MethodGet, "/files?path=f&signature=x", "", "Authorization", unknown); status != 200 || body != "home" {
		t.Errorf("signed: %d %q", status, body)
	}
	if status, _, _ := a.do(t, http.MethodGet, "/files?path=f", "", "Authorization", unknown); status != 401 {
		t.Errorf("not signed: %d", status)
	}
}

// TestHostilePaths sends every kind of path that is none to every call.
func TestHostilePaths(t *testing.T) {
	a := startAgent(t)
	for what, path := range map[string]string{
		"NUL": "/tmp/a\x00b", "long name": "/" + strings.Repeat("n", 256), "long path": strings.Repeat("/d", 2_100),
	} {
		_, stat := a.stat(t, path)
		_, list := a.listDir(t, path, 1)
		for call, err := range map[string]error{
			"stat": stat, "list": list, "makeDir": a.makeDir(t, path), "remove": a.remove(t, path),
			"move from": a.move(t, path, a.home+"/x"), "move to": a.move(t, a.home, path),
		} {
			if err == nil || connect.CodeOf(err) != connect.CodeInvalidArgument && connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("%s, %s: %v", what, call, err)
			}
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			status, _, body := a.do(t, method, filesURL(path), "", "Content-Type", octets)
			wantError(t, what+", "+method, status, body, 400)
		}
	}
	// Not an error: the path is cleaned before anybody looks at it.
	if e, err := a.stat(t, a.home+strings.Repeat("/../"+filepath.Base(a.home), 1_000)); err != nil || e.GetPath() != a.home {
		t.Errorf("a path with many steps up: %v, %v", e, err)
	}
	for _, path := range []string{strings.Repeat("../", 1_000), "/.."} {
		if e, err := a.stat(t, path); err != nil || e.GetPath() != "/" {
			t.Errorf("%.20s: %v, %v", path, e, err)
		}
	}
	if n := bytes.Count([]byte(strings.Join(leftovers(t, a.home), "")), []byte("sandlot")); n > 0 {
		t.Errorf("%d temporary files are left", n)
	}
}
