package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
)

func (a *testAgent) stat(t *testing.T, path string) (*pb.EntryInfo, error) {
	t.Helper()
	res, err := a.fs.Stat(t.Context(), connect.NewRequest(&pb.StatRequest{Path: path}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetEntry(), nil
}

func (a *testAgent) listDir(t *testing.T, path string, depth uint32) ([]*pb.EntryInfo, error) {
	t.Helper()
	res, err := a.fs.ListDir(t.Context(), connect.NewRequest(&pb.ListDirRequest{Path: path, Depth: depth}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetEntries(), nil
}

func (a *testAgent) makeDir(t *testing.T, path string) error {
	t.Helper()
	_, err := a.fs.MakeDir(t.Context(), connect.NewRequest(&pb.MakeDirRequest{Path: path}))
	return err
}

func (a *testAgent) move(t *testing.T, source, destination string) error {
	t.Helper()
	_, err := a.fs.Move(t.Context(), connect.NewRequest(&pb.MoveRequest{Source: source, Destination: destination}))
	return err
}

func (a *testAgent) remove(t *testing.T, path string) error {
	t.Helper()
	_, err := a.fs.Remove(t.Context(), connect.NewRequest(&pb.RemoveRequest{Path: path}))
	return err
}

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStat(t *testing.T) {
	a := startAgent(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	file := write(t, filepath.Join(dir, "f.txt"), "hello", 0o640)
	when := time.Unix(1_700_000_000, 123456789)
	must(t, os.Chtimes(file, when, when))
	must(t, os.Symlink("f.txt", filepath.Join(dir, "link")))
	must(t, os.Symlink(filepath.Join(dir, "link"), filepath.Join(dir, "link2")))
	must(t, os.Symlink("../gone", filepath.Join(dir, "broken")))
	must(t, os.Mkdir(filepath.Join(dir, "sticky"), 0o755))
	must(t, os.Chmod(filepath.Join(dir, "sticky"), 0o777|os.ModeSticky))
	target := func(s string) *string { return &s }
	for name, want := range map[string]*pb.EntryInfo{
		"f.txt":  {Type: pb.FileType_FILE_TYPE_FILE, Size: 5, Mode: 0o640, Permissions: "-rw-r-----"},
		"sticky": {Type: pb.FileType_FILE_TYPE_DIRECTORY, Mode: 0o777, Permissions: "drwxrwxrwt"},
		"link":   {Type: pb.FileType_FILE_TYPE_FILE, Mode: 0o640, Permissions: "lrwxrwxrwx", SymlinkTarget: target(file)},
		"link2":  {Type: pb.FileType_FILE_TYPE_FILE, Mode: 0o640, Permissions: "lrwxrwxrwx", SymlinkTarget: target(file)},
		"broken": {Type: pb.FileType_FILE_TYPE_SYMLINK, Mode: 0o777, Permissions: "lrwxrwxrwx", SymlinkTarget: target(filepath.Join(filepath.Dir(dir), "gone"))},
	} {
		got, err := a.stat(t, filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want.Name, want.Path = name, filepath.Join(dir, name)
		if got.GetOwner() == "" || got.GetGroup() == "" {
			t.Errorf("%s: owner %q, group %q", name, got.GetOwner(), got.GetGroup())
		}
		if name == "f.txt" && !got.GetModifiedTime().AsTime().Equal(when) {
			t.Errorf("modified %s, want %s", got.GetModifiedTime().AsTime(), when)
		}
		if name != "f.txt" {
			want.Size = got.GetSize()
		}
		got.Owner, got.Group, got.ModifiedTime = "", "", nil
		if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	_, err = a.stat(t, filepath.Join(dir, "none"))
	wantCode(t, "missing", err, connect.CodeNotFound)
	_, err = a.stat(t, filepath.Join(file, "below"))
	wantCode(t, "below a file", err, connect.CodeInvalidArgument)
	_, err = a.stat(t, "a\x00b")
	wantCode(t, "NUL", err, connect.CodeInvalidArgument)
}

func TestPathsFromHome(t *testing.T) {
	a := startAgent(t)
	for _, path := range []string{"", "~", ".", "~/", "x/.."} {
		got, err := a.stat(t, path)
		if err != nil || got.GetPath() != a.home {
			t.Errorf("stat of %q: %s, %v; want %s", path, got.GetPath(), err, a.home)
		}
	}
}

func TestListDir(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	for _, name := range []string{"b/two", "b/one", "a", "b.txt", "b/c/deep", "z/end"} {
		write(t, filepath.Join(dir, name), "", 0o644)
	}
	must(t, os.Symlink("b", filepath.Join(dir, "loop")))
	must(t, os.Symlink(dir, dir+"-link"))
	t.Cleanup(func() { _ = os.Remove(dir + "-link") })
	for depth, want := range map[uint32][]string{
		1: {"a", "b", "b.txt", "loop", "z"},
		2: {"a", "b", "b/c", "b/one", "b/two", "b.txt", "loop", "z", "z/end"},
		9: {"a", "b", "b/c", "b/c/deep", "b/one", "b/two", "b.txt", "loop", "z", "z/end"},
	} {
		for _, root := range []string{dir, dir + "/", dir + "-link"} {
			entries, err := a.listDir(t, root, depth)
			if err != nil {
				t.Error(err)
				continue
			}
			var got []string
			for _, e := range entries {
				rel, err := filepath.Rel(filepath.Clean(root), e.GetPath())
				must(t, err)
				got = append(got, rel)
				if e.GetName() != filepath.Base(rel) {
					t.Errorf("name %q of %q", e.GetName(), rel)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s, depth %d (-want +got):\n%s", root, depth, d)
			}
		}
	}
	_, err := a.listDir(t, dir, 0)
	wantCode(t, "depth 0", err, connect.CodeInvalidArgument)
	_, err = a.listDir(t, filepath.Join(dir, "none"), 1)
	wantCode(t, "missing", err, connect.CodeNotFound)
	_, err = a.listDir(t, filepath.Join(dir, "a"), 1)
	wantCode(t, "a file", err, connect.CodeInvalidArgument)
}

func TestMakeDir(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	deep := filepath.Join(dir, "x/y/z")
	must(t, a.makeDir(t, deep))
	e, err := a.stat(t, deep)
	if err != nil || e.GetType() != pb.FileType_FILE_TYPE_DIRECTORY || e.GetMode() != 0o755 {
		t.Errorf("made %v, %v", e, err)
	}
	wantCode(t, "again", a.makeDir(t, deep), connect.CodeAlreadyExists)
	file := write(t, filepath.Join(dir, "f"), "", 0o644)
	wantCode(t, "over a file", a.makeDir(t, file), connect.CodeInvalidArgument)
	wantCode(t, "below a file", a.makeDir(t, file+"/below"), connect.CodeInvalidArgument)
	wantCode(t, "no name", a.makeDir(t, ""), connect.CodeInvalidArgument)
}

func TestMove(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write(t, path("f"), "one", 0o600)
	must(t, a.move(t, path("f"), path("new/dir/g")))
	if got := read(t, path("new/dir/g")); got != "one" {
		t.Errorf("moved content %q", got)
	}
	write(t, path("f"), "two", 0o600)
	must(t, a.move(t, path("f"), path("new/dir/g")))
	if got := read(t, path("new/dir/g")); got != "two" {
		t.Errorf("replaced content %q", got)
	}
	must(t, a.move(t, path("new"), path("other")))
	read(t, path("other/dir/g"))
	wantCode(t, "missing", a.move(t, path("none"), path("x")), connect.CodeNotFound)
	wantCode(t, "into itself", a.move(t, path("other"), path("other/dir/x")), connect.CodeInvalidArgument)
	must(t, os.Mkdir(path("full"), 0o755))
	write(t, path("full/x"), "", 0o644)
	wantCode(t, "over a directory that is not empty", a.move(t, path("other"), path("full")), connect.CodeAlreadyExists)
}

// TestMoveAcrossMounts uses two file systems every Linux has.
func TestMoveAcrossMounts(t *testing.T) {
	a := startAgent(t)
	shm, err := os.MkdirTemp("/dev/shm", "sandlot")
	if err != nil {
		t.Skipf("missing a second file system at /dev/shm: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	source := filepath.Join(shm, "tree")
	write(t, filepath.Join(source, "sub/f"), "content", 0o751)
	must(t, os.Symlink("sub/f", filepath.Join(source, "link")))
	when := time.Unix(1_600_000_000, 0)
	must(t, os.Chtimes(filepath.Join(source, "sub"), when, when))
	destination := filepath.Join(t.TempDir(), "moved")
	must(t, a.move(t, source, destination))
	if got := read(t, filepath.Join(destination, "link")); got != "content" {
		t.Errorf("content %q", got)
	}
	info, err := os.Stat(filepath.Join(destination, "sub/f"))
	must(t, err)
	if info.Mode() != 0o751 {
		t.Errorf("mode %v", info.Mode())
	}
	if info, err = os.Stat(filepath.Join(destination, "sub")); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("time of the directory %v, %v", info.ModTime(), err)
	}
	if _, err := os.Lstat(source); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the source is still there: %v", err)
	}
}

func TestRemove(t *testing.T) {
	a := startAgent(t)
	dir := t.TempDir()
	outside := write(t, filepath.Join(dir, "outside/f"), "", 0o644)
	write(t, filepath.Join(dir, "tree/a/b"), "", 0o644)
	must(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, "tree/link")))
	for range 2 { // removing what is missing succeeds
		must(t, a.remove(t, filepath.Join(dir, "tree")))
	}
	read(t, outside)
	wantCode(t, "root", a.remove(t, "/../"), connect.CodeInvalidArgument)
	wantCode(t, "nothing", a.remove(t, ""), connect.CodeInvalidArgument)
}
