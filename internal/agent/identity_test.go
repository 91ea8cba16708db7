package agent_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// addUsers adds users: one that requests are to act as by default, one more with
// supplementary groups, and one without a home directory. The default working
// directory is closed to all but the first.
func (a *testAgent) addUsers(t *testing.T) {
	t.Helper()
	testreq.Root(t)
	dir := filepath.Dir(a.socket)
	must(t, os.Chmod(dir, 0o711))
	for name, id := range map[string]int{"usual": 41001, "other": 41002} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		must(t, os.Chown(filepath.Join(dir, name), id, id))
	}
	add := func(file, lines string) {
		old := read(t, filepath.Join(dir, file))
		must(t, os.WriteFile(filepath.Join(dir, file), []byte(old+lines), 0o644))
	}
	add("passwd", fmt.Sprintf("usual:x:41001:41001::%[1]s/usual:/bin/sh\nother:x:41002:41002::%[1]s/other:/bin/sh\nhomeless:x:41003:41003::/nowhere:/bin/sh\n", dir))
	add("group", "usual:x:41001:\nother:x:41002:\none:x:42001:other\ntwo:x:42002:usual,other\nthree:x:42003:usual\n")
	a.init(t, fmt.Sprintf(`{"default_user":"usual","default_workdir":"%s/usual"}`, dir))
}

// as runs a script as a user and returns what it prints.
func (a *testAgent) as(t *testing.T, user string, req *pb.StartRequest) string {
	t.Helper()
	msg := connect.NewRequest(req)
	if user != "" {
		msg.Header().Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
	}
	stream, err := a.proc.Start(t.Context(), msg)
	must(t, err)
	r := first(t, startStream{stream}).finish()
	return string(append(r.stdout, r.pty...))
}

// Processes have the supplementary groups of their user, in a terminal too, and
// none of the agent's.
func TestGroups(t *testing.T) {
	a := startAgent(t)
	a.addUsers(t)
	for user, want := range map[string]string{
		"":         "41001 42002 42003\n",
		"other":    "41002 42001 42002\n",
		"homeless": "41003\n",
		"root":     "0\n",
	} {
		if got := a.as(t, user, shell("id -G")); got != want {
			t.Errorf("groups of %q: %q, want %q", user, got, want)
		}
	}
	got := a.as(t, "other", inTerminal(shell("id -G"), 80, 24))
	if got != "41002 42001 42002\r\n" {
		t.Errorf("in a terminal: %q", got)
	}
}

// Without a directory to run in, processes of the default user and of root begin
// in the sandbox's own, those of others at home, where they may be.
func TestWorkdirOfOthers(t *testing.T) {
	a := startAgent(t)
	a.addUsers(t)
	dir := filepath.Dir(a.socket)
	for user, want := range map[string]string{
		"": dir + "/usual", "usual": dir + "/usual", "root": dir + "/usual", "other": dir + "/other", "homeless": "/",
	} {
		if got := a.as(t, user, shell("pwd")); got != want+"\n" {
			t.Errorf("%q begins in %q, want %s", user, got, want)
		}
	}
	for asked, want := range map[string]string{"/tmp": "/tmp\n", "~": dir + "/other\n", ".": dir + "/other\n"} {
		req := shell("pwd")
		req.Process.Cwd = &asked
		if got := a.as(t, "other", req); got != want {
			t.Errorf("asked for %s: %q", asked, got)
		}
	}
}
