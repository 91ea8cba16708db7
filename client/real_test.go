package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/test/harness"
)

// TestRealServer does with a real server what the other tests do with a fake
// one, as far as a fake can lie.
func TestRealServer(t *testing.T) {
	server := harness.Start(t, harness.Options{})
	c, err := client.New(client.Options{DataDir: server.DataDir, Env: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if c.APIURL() != server.URL || c.APIKey() != server.Key {
		t.Fatalf("the data directory gave %s and %q", c.APIURL(), c.APIKey())
	}
	odd := map[string]string{"a b&c": "d=e/ü+%"}
	sbx := create(t, c, client.WithMetadata(odd), client.WithEnv(map[string]string{"FROM": "sandbox"}), client.WithTimeout(5*time.Minute))
	create(t, c)

	t.Run("list", func(t *testing.T) { realList(t, c, odd, sbx.ID) })
	t.Run("commands", func(t *testing.T) { realCommands(t, sbx) })
	t.Run("deadline", func(t *testing.T) { realDeadline(t, sbx) })
	t.Run("terminals", func(t *testing.T) { realTerminals(t, sbx) })
	t.Run("files", func(t *testing.T) { realFiles(t, sbx.Files) })
	t.Run("watch", func(t *testing.T) { realWatch(t, sbx.Files) })
	t.Run("ports", func(t *testing.T) { realPorts(t, sbx) })
	t.Run("metrics", func(t *testing.T) { realMetrics(t, c, sbx) })
	t.Run("pool", func(t *testing.T) {
		if hit, _ := create(t, c, client.WithoutPool()).FromPool(); hit {
			t.Error("a sandbox came from the pool after WithoutPool")
		}
	})
	t.Run("end", func(t *testing.T) { realEnd(t, c, sbx) })
}

func realList(t *testing.T, c *client.Client, metadata map[string]string, id string) {
	t.Helper()
	n := 0
	for info, err := range c.List(t.Context(), client.Filter{Metadata: metadata, States: []client.State{client.Running}, Template: "base"}) {
		if err != nil || info.ID != id || info.MemoryMB != 1024 || time.Until(info.EndAt) > 5*time.Minute {
			t.Errorf("List gave %+v, %v", info, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("List by metadata gave %d sandboxes, want 1", n)
	}
}

func realCommands(t *testing.T, sbx *client.Sandbox) {
	t.Helper()
	ctx := t.Context()
	for _, tt := range []struct {
		line string
		opts []client.CommandOption
		want client.Result
	}{
		{"echo $FROM; echo err >&2; whoami; pwd; exit 3", nil, client.Result{Stdout: "sandbox\nuser\n/home/user\n", Stderr: "err\n", ExitCode: 3}},
		{"whoami", []client.CommandOption{client.AsUser("root")}, client.Result{Stdout: "root\n"}},
		{"pwd", []client.CommandOption{client.InDir("/tmp")}, client.Result{Stdout: "/tmp\n"}},
		{"kill -9 $$", nil, client.Result{ExitCode: 137}},
		{"cat", nil, client.Result{}},
	} {
		got, err := sbx.Commands.Run(ctx, tt.line, tt.opts...)
		if _, failed := errors.AsType[*client.ExitError](err); got != tt.want || failed != (got.ExitCode != 0) {
			t.Errorf("Run(%s) = %+v, %v; want %+v", tt.line, got, err, tt.want)
		}
	}
	if _, err := sbx.Commands.Exec(ctx, []string{"no-such-program"}); err == nil {
		t.Error("Exec of a program that does not exist gave no error")
	}
	cmd, err := sbx.Commands.Start(ctx, "tr a-z A-Z", client.WithStdin(), client.WithTag("job"))
	if err != nil {
		t.Fatal(err)
	}
	if all, err := sbx.Commands.List(ctx); err != nil || len(all) != 1 || all[0].PID != cmd.PID || all[0].Tag != "job" {
		t.Errorf("List = %+v, %v", all, err)
	}
	second, err := sbx.Commands.ConnectTag(ctx, "job")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cmd.SendStdin(ctx, []byte("text")), cmd.CloseStdin(ctx)); err != nil {
		t.Error(err)
	}
	for _, handle := range []*client.Command{cmd, second} {
		if got, err := handle.Wait(ctx); err != nil || got.Stdout != "TEXT" {
			t.Errorf("Wait = %+v, %v", got, err)
		}
	}
	if err := cmd.Kill(ctx); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Kill of an ended command = %v, want ErrNotFound", err)
	}
}

func realDeadline(t *testing.T, sbx *client.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got, err := sbx.Commands.Run(ctx, "echo begun; sleep 60")
	if !errors.Is(err, context.DeadlineExceeded) || got.Stdout != "begun\n" {
		t.Errorf("Run = %+v, %v; want what it wrote and DeadlineExceeded", got, err)
	}
	// The agent ends the command at the same deadline, on its own clock.
	var left []client.Process
	for range 100 {
		if left, err = sbx.Commands.List(t.Context()); err != nil || len(left) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil || len(left) != 0 {
		t.Errorf("List = %+v, %v; want nothing", left, err)
	}
}

func realFiles(t *testing.T, f *client.Files) {
	t.Helper()
	ctx := t.Context()
	big := bytes.Repeat([]byte("sandlot "), 1<<20)
	if err := f.WriteStream(ctx, "deep/dir/big", io.MultiReader(bytes.NewReader(big))); err != nil {
		t.Fatal(err)
	}
	if back, err := f.Read(ctx, "deep/dir/big"); err != nil || !bytes.Equal(back, big) {
		t.Errorf("Read gave %d bytes, %v; want %d", len(back), err, len(big))
	}
	if err := f.Write(ctx, "empty", nil, client.AsUser("root")); err != nil {
		t.Error(err)
	}
	if e, err := f.Info(ctx, "/root/empty", client.AsUser("root")); err != nil || e.Owner != "root" || e.Size != 0 || e.Type != client.FileEntry {
		t.Errorf("Info = %+v, %v", e, err)
	}
	if err := f.MakeDir(ctx, "deep"); !errors.Is(err, client.ErrConflict) {
		t.Errorf("MakeDir of what exists = %v, want ErrConflict", err)
	}
	var paths []string
	entries, err := f.List(ctx, "deep", 2)
	for _, e := range entries {
		paths = append(paths, e.Path)
	}
	if got := strings.Join(paths, " "); err != nil || got != "/home/user/deep/dir /home/user/deep/dir/big" {
		t.Errorf("List = %s, %v", got, err)
	}
	if e, err := f.Rename(ctx, "deep/dir/big", "moved"); err != nil || e.Path != "/home/user/moved" || e.Size != int64(len(big)) {
		t.Errorf("Rename = %+v, %v", e, err)
	}
	if err := f.Remove(ctx, "deep"); err != nil {
		t.Error(err)
	}
	if there, err := f.Exists(ctx, "deep"); there || err != nil {
		t.Errorf("Exists = %v, %v", there, err)
	}
	if _, err := f.Read(ctx, "deep/dir/big"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Read = %v, want ErrNotFound", err)
	}
}

func realWatch(t *testing.T, f *client.Files) {
	t.Helper()
	ctx := t.Context()
	if err := f.MakeDir(ctx, "watched/sub"); err != nil {
		t.Fatal(err)
	}
	w, err := f.Watch(ctx, "watched", client.Recursively(), client.WithEntries())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	err = errors.Join(f.Write(ctx, "watched/sub/f", []byte("text")), f.Write(ctx, "watched/sub/f", []byte("more")), f.Remove(ctx, "watched"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range w.Events() {
		if err != nil {
			t.Fatal(err)
		}
		if e.Entry != nil && e.Entry.Path != "/home/user/watched/"+e.Name {
			t.Errorf("entry %+v of %s", e.Entry, e.Name)
		}
		got = append(got, string(e.Type)+" "+e.Name)
	}
	want := "create sub/f, write sub/f, write sub/f, remove sub/f, remove sub, remove ."
	if got := strings.Join(got, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err = f.Watch(ctx, "watched"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Watch of nothing = %v, want ErrNotFound", err)
	}
	if w, err = f.Watch(ctx, "/tmp"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	for e, err := range w.Events() {
		t.Errorf("after Close: %+v, %v", e, err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if w, err = f.Watch(short, "/tmp"); err != nil {
		t.Fatal(err)
	}
	for e, err := range w.Events() {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the deadline: %+v, %v", e, err)
		}
	}
}

// A server on the sandbox's own loopback is reached through its port.
func realPorts(t *testing.T, sbx *client.Sandbox) {
	t.Helper()
	ctx := t.Context()
	if err := sbx.Files.Write(ctx, "www/index.html", []byte("served inside")); err != nil {
		t.Fatal(err)
	}
	_, err := sbx.Commands.StartExec(ctx, []string{"python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "/home/user/www", "8000"})
	if err != nil {
		t.Fatal(err)
	}
	var last string
	for range 100 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://inside/index.html", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := sbx.Transport(8000).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if last = fmt.Sprintf("%d %s %v", resp.StatusCode, body, err); last == "200 served inside <nil>" {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("last reply: %s", last)
}

func realEnd(t *testing.T, c *client.Client, sbx *client.Sandbox) {
	t.Helper()
	ctx := t.Context()
	cmd, err := sbx.Commands.Start(ctx, "sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Connect(ctx, sbx.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := sbx.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.Wait(ctx); !errors.Is(err, client.ErrUnavailable) || !strings.Contains(err.Error(), "end of life") {
		t.Errorf("Wait = %v", err)
	}
	if running, err := again.IsRunning(ctx); running || err != nil {
		t.Errorf("IsRunning = %v, %v", running, err)
	}
	if err := sbx.Kill(ctx); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("second Kill = %v, want ErrNotFound", err)
	}
	if _, err := sbx.Commands.Run(ctx, "true"); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Run = %v, want ErrUnavailable", err)
	}
}
