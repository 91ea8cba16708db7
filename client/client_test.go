package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect returns a fake server and a client of it.
func connect(t *testing.T) (*clienttest.Server, *client.Client) {
	t.Helper()
	server := clienttest.New(t)
	c, err := client.New(client.Options{APIURL: server.URL, APIKey: clienttest.Key, Env: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return server, c
}

func noEnv(string) string { return "" }

func create(t *testing.T, c *client.Client, opts ...client.CreateOption) *client.Sandbox {
	t.Helper()
	sbx, err := c.Create(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return sbx
}

func TestDiscovery(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("server.json", `{"url":"http://127.0.0.1:9999","pid":1,"version":"x"}`)
	write("api-key", "e2b_file\n")
	type found struct{ API, Sandbox, Key string }
	for _, tt := range []struct {
		name string
		opts client.Options
		env  map[string]string
		want found
	}{
		{"nothing", client.Options{DataDir: t.TempDir()}, nil, found{"http://127.0.0.1:7280", "http://127.0.0.1:7280", ""}},
		{"data directory", client.Options{DataDir: dir}, nil, found{"http://127.0.0.1:9999", "http://127.0.0.1:9999", "e2b_file"}},
		{"data directory by environment", client.Options{}, map[string]string{"SANDLOT_DATA_DIR": dir}, found{"http://127.0.0.1:9999", "http://127.0.0.1:9999", "e2b_file"}},
		{
			"environment wins, and the key stays at home",
			client.Options{DataDir: dir},
			map[string]string{"E2B_API_URL": "https://far.example/"},
			found{"https://far.example", "https://far.example", ""},
		},
		{
			"environment in full",
			client.Options{DataDir: dir},
			map[string]string{"E2B_API_URL": "http://a", "E2B_SANDBOX_URL": "http://b", "E2B_API_KEY": "k"},
			found{"http://a", "http://b", "k"},
		},
		{
			"the same address by environment",
			client.Options{DataDir: dir},
			map[string]string{"E2B_API_URL": "http://127.0.0.1:9999"},
			found{"http://127.0.0.1:9999", "http://127.0.0.1:9999", "e2b_file"},
		},
		{
			"options win",
			client.Options{DataDir: dir, APIURL: "http://o", SandboxURL: "http://s/", APIKey: "ko"},
			map[string]string{"E2B_API_URL": "http://a", "E2B_API_KEY": "k"},
			found{"http://o", "http://s", "ko"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Env = func(name string) string { return tt.env[name] }
			c, err := client.New(tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, found{c.APIURL(), c.SandboxURL(), c.APIKey()}); diff != "" {
				t.Errorf("New (-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []string{"127.0.0.1:7280", "ftp://x", "http://", "://"} {
		if _, err := client.New(client.Options{APIURL: bad, Env: noEnv}); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("New(%q) = %v, want ErrInvalid", bad, err)
		}
	}
	write("server.json", `{`)
	if _, err := client.New(client.Options{DataDir: dir, Env: noEnv}); err == nil {
		t.Error("New gave no error for a broken server.json")
	}
}

func TestLifecycle(t *testing.T) {
	server, c := connect(t)
	ctx := t.Context()
	sbx := create(t, c, client.WithMetadata(map[string]string{"a": "1"}), client.WithTimeout(1500*time.Millisecond))
	if hit, known := sbx.FromPool(); !hit || !known {
		t.Errorf("FromPool = %v, %v; want true, true", hit, known)
	}
	info, err := sbx.Info(ctx)
	if err != nil || info.ID != sbx.ID || info.State != client.Running || info.EndAt.Sub(info.StartedAt) != 2*time.Second {
		t.Errorf("Info = %+v, %v", info, err)
	}
	if err := sbx.SetTimeout(ctx, time.Minute); err != nil {
		t.Error(err)
	}
	if info, err = c.Info(ctx, sbx.ID); err != nil || info.EndAt.Sub(info.StartedAt) != time.Minute {
		t.Errorf("Info = %+v, %v", info, err)
	}
	again, err := c.Connect(ctx, sbx.ID)
	if err != nil {
		t.Fatal(err)
	}
	if running, err := again.IsRunning(ctx); !running || err != nil {
		t.Errorf("IsRunning = %v, %v", running, err)
	}
	if err := sbx.Kill(ctx); err != nil {
		t.Error(err)
	}
	if running, err := again.IsRunning(ctx); running || err != nil {
		t.Errorf("IsRunning after Kill = %v, %v", running, err)
	}
	if err := sbx.Kill(ctx); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("second Kill = %v, want ErrNotFound", err)
	}
	if _, err := c.Connect(ctx, sbx.ID); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Connect = %v, want ErrNotFound", err)
	}
	if n := len(server.IDs()); n != 0 {
		t.Errorf("%d sandboxes left", n)
	}
}

func TestListPagesAndFilters(t *testing.T) {
	server, c := connect(t)
	server.PageSize = 2
	odd := map[string]string{"a b&c": "d=e/ü+%"}
	for i := range 5 {
		opts := []client.CreateOption{client.WithMetadata(map[string]string{"n": fmt.Sprint(i)})}
		if i%2 == 0 {
			opts = append(opts, client.WithMetadata(odd))
		}
		create(t, c, opts...)
	}
	count := func(f client.Filter) (n int) {
		for info, err := range c.List(t.Context(), f) {
			if err != nil || info.ID == "" {
				t.Fatalf("List gave %+v, %v", info, err)
			}
			n++
		}
		return n
	}
	if n := count(client.Filter{States: []client.State{client.Running, client.Paused}, StartedAfter: time.Unix(0, 0), Template: "base", OldestFirst: true}); n != 5 {
		t.Errorf("List gave %d sandboxes, want 5", n)
	}
	if n := count(client.Filter{Metadata: odd}); n != 3 {
		t.Errorf("List by metadata gave %d sandboxes, want 3", n)
	}
	for _, err := range c.List(t.Context(), client.Filter{}) {
		if err != nil {
			t.Error(err)
		}
		break // must not go on, nor ask for another page
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range c.List(ctx, client.Filter{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("List = %v, want context.Canceled", err)
		}
	}
}

func TestErrorClasses(t *testing.T) {
	server, c := connect(t)
	server.Limit = 1
	ctx := t.Context()
	create(t, c)
	_, full := c.Create(ctx)
	_, unknown := c.Create(ctx, client.WithTemplate("nope"))
	stranger, err := client.New(client.Options{APIURL: server.URL, APIKey: "e2b_bad", Env: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stranger.Close)
	_, foreign := stranger.Create(ctx)
	for _, tt := range []struct {
		err, want error
		code      int
	}{
		{full, client.ErrExhausted, 429},
		{unknown, client.ErrNotFound, 404},
		{foreign, client.ErrUnauthenticated, 401},
	} {
		e, ok := errors.AsType[*client.Error](tt.err)
		if !ok || !errors.Is(tt.err, tt.want) || e.Code != tt.code || e.Message == "" {
			t.Errorf("error = %v (%+v), want %v", tt.err, e, tt.want)
		}
		if errors.Is(tt.err, client.ErrInternal) {
			t.Errorf("error %v is also ErrInternal", tt.err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	c, err := client.New(client.Options{APIURL: "http://" + l.Addr().String(), Env: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Create(t.Context())
	if e, ok := errors.AsType[*client.UnreachableError](err); !ok || e.URL != c.APIURL() || !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Create = %v, want an UnreachableError", err)
	}
}

func TestRepliesThatAreNotSandlots(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/templates") {
			_, _ = fmt.Fprint(w, "<html>")
			return
		}
		http.Error(w, "<html>", http.StatusBadGateway)
	}))
	t.Cleanup(server.Close)
	c, err := client.New(client.Options{APIURL: server.URL, Env: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.Create(t.Context()); !errors.Is(err, client.ErrUnavailable) || !strings.Contains(err.Error(), "502") {
		t.Errorf("Create = %v", err)
	}
	if _, err := c.Templates(t.Context()); err == nil {
		t.Error("Templates understood HTML")
	}
}

func TestRun(t *testing.T) {
	_, c := connect(t)
	sbx := create(t, c, client.WithEnv(map[string]string{"FROM": "sandbox"}))
	ctx := t.Context()
	for _, tt := range []struct {
		name, line string
		opts       []client.CommandOption
		want       client.Result
	}{
		{"output", "echo out; echo err >&2", nil, client.Result{Stdout: "out\n", Stderr: "err\n"}},
		{"exit code", "echo no >&2; exit 3", nil, client.Result{Stderr: "no\n", ExitCode: 3}},
		{"signal", "kill -9 $$", nil, client.Result{ExitCode: 137}},
		{"no stdin", "cat", nil, client.Result{}},
		{"environment", "echo $FROM $MINE", []client.CommandOption{client.WithVars(map[string]string{"MINE": "mine"})}, client.Result{Stdout: "sandbox mine\n"}},
		{"directory", "pwd", []client.CommandOption{client.InDir("/")}, client.Result{Stdout: "/\n"}},
		{"user", "echo $FAKE_USER", []client.CommandOption{client.AsUser("root")}, client.Result{Stdout: "root\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := sbx.Commands.Run(ctx, tt.line, tt.opts...)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Run (-want +got):\n%s", diff)
			}
			exit, failed := errors.AsType[*client.ExitError](err)
			if failed != (tt.want.ExitCode != 0) || failed && exit.Result != got {
				t.Errorf("error = %v", err)
			}
		})
	}
	if _, err := sbx.Commands.Exec(ctx, []string{"/no/such/program"}); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("Exec = %v, want ErrInvalid", err)
	}
	if _, err := sbx.Commands.Exec(ctx, nil); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("Exec of nothing = %v, want ErrInvalid", err)
	}
}

// Every command opens streams; none may cost a connection of its own.
func TestConnectionsAreReused(t *testing.T) {
	server, c := connect(t)
	sbx := create(t, c)
	for range 20 {
		if _, err := sbx.Commands.Exec(t.Context(), []string{"/bin/true"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := server.Connections(); n > 2 {
		t.Errorf("20 commands in a row used %d connections", n)
	}
}

func TestRunIsKilledWithItsContext(t *testing.T) {
	_, c := connect(t)
	sbx := create(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got, err := sbx.Commands.Run(ctx, "echo begun; sleep 60")
	if !errors.Is(err, context.DeadlineExceeded) || got.Stdout != "begun\n" || got.ExitCode != -1 {
		t.Errorf("Run = %+v, %v; want what it wrote and DeadlineExceeded", got, err)
	}
	for range 100 {
		if left, err := sbx.Commands.List(t.Context()); err == nil && len(left) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the command still runs")
}

func TestHandle(t *testing.T) {
	_, c := connect(t)
	sbx := create(t, c)
	ctx := t.Context()
	cmd, err := sbx.Commands.Start(ctx, "read x; echo got $x; sleep 60", client.WithStdin(), client.WithTag("job"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := sbx.Commands.List(ctx)
	if err != nil || len(all) != 1 || all[0].PID != cmd.PID || all[0].Tag != "job" || all[0].Argv[3] != "read x; echo got $x; sleep 60" {
		t.Errorf("List = %+v, %v", all, err)
	}
	if err := cmd.SendStdin(ctx, []byte("it\n")); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := cmd.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait = %v, want DeadlineExceeded", err)
	}
	if err := cmd.Terminate(ctx); err != nil {
		t.Error(err)
	}
	got, err := cmd.Wait(ctx)
	exit, ok := errors.AsType[*client.ExitError](err)
	if !ok || got.Stdout != "got it\n" || got.ExitCode != 143 || !strings.Contains(exit.Error(), "signal: terminated") {
		t.Errorf("Wait = %+v, %v", got, err)
	}
	if again, err2 := cmd.Wait(ctx); again != got || !errors.Is(err2, err) {
		t.Errorf("second Wait = %+v, %v", again, err2)
	}
	if err := cmd.Kill(ctx); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Kill of an ended command = %v, want ErrNotFound", err)
	}
}

func TestOutputArrivesWhileTheCommandRuns(t *testing.T) {
	_, c := connect(t)
	sbx := create(t, c)
	r, w := io.Pipe()
	cmd, err := sbx.Commands.Start(t.Context(), "echo first; read x; echo last", client.WithStdin(), client.WithStdout(w))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := r.Read(buf)
	if err != nil || string(buf[:n]) != "first\n" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	// A reader that goes away ends the stream, and Wait says so.
	r.CloseWithError(errors.New("reader left"))
	if err := cmd.CloseStdin(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := cmd.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "reader left") {
		t.Errorf("Wait = %v", err)
	}
}

func TestDisconnect(t *testing.T) {
	_, c := connect(t)
	sbx := create(t, c)
	cmd, err := sbx.Commands.Start(t.Context(), "sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Disconnect()
	if got, err := cmd.Wait(t.Context()); !errors.Is(err, context.Canceled) || got.ExitCode != -1 {
		t.Errorf("Wait = %+v, %v; want context.Canceled", got, err)
	}
}

func TestSandboxEndsUnderACommand(t *testing.T) {
	server, c := connect(t)
	sbx := create(t, c)
	cmd, err := sbx.Commands.Start(t.Context(), "sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	server.Drop(sbx.ID)
	_, err = cmd.Wait(t.Context())
	if !errors.Is(err, client.ErrUnavailable) || !strings.Contains(err.Error(), "was killed or reached its end of life") {
		t.Errorf("Wait = %v", err)
	}
	if _, err := sbx.Commands.Run(t.Context(), "true"); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Run = %v, want ErrUnavailable", err)
	}
	if _, err := sbx.Files.Read(t.Context(), "x"); !errors.Is(err, client.ErrUnavailable) {
		t.Errorf("Read = %v, want ErrUnavailable", err)
	}
}

func TestFiles(t *testing.T) {
	_, c := connect(t)
	f := create(t, c).Files
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	must(f.Write(ctx, "a/b.txt", []byte("text")))
	must(f.Write(ctx, "empty", nil, client.AsUser("root")))
	data, err := f.Read(ctx, "a/b.txt")
	if err != nil || string(data) != "text" {
		t.Errorf("Read = %q, %v", data, err)
	}
	if data, err = f.Read(ctx, "empty"); err != nil || len(data) != 0 {
		t.Errorf("Read = %q, %v", data, err)
	}
	must(f.MakeDir(ctx, "a/c"))
	if err := f.MakeDir(ctx, "a/c"); !errors.Is(err, client.ErrConflict) {
		t.Errorf("MakeDir = %v, want ErrConflict", err)
	}
	entries, err := f.List(ctx, "/home/user", 2)
	var names []string
	for _, e := range entries {
		names = append(names, fmt.Sprintf("%s %s %d", e.Type, e.Path, e.Size*b2i(e.Type == client.FileEntry)))
	}
	want := []string{"dir /home/user/a 0", "file /home/user/a/b.txt 4", "dir /home/user/a/c 0", "file /home/user/empty 0"}
	if diff := cmp.Diff(want, names); diff != "" || err != nil {
		t.Errorf("List (-want +got): %v\n%s", err, diff)
	}
	if _, err := f.List(ctx, "a", 0); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("List with depth 0 = %v", err)
	}
	moved, err := f.Rename(ctx, "a/b.txt", "c.txt")
	if err != nil || moved.Path != "/home/user/c.txt" || moved.Size != 4 || moved.Owner != "user" || moved.ModTime.IsZero() {
		t.Errorf("Rename = %+v, %v", moved, err)
	}
	for path, want := range map[string]bool{"c.txt": true, "a/b.txt": false} {
		if got, err := f.Exists(ctx, path); got != want || err != nil {
			t.Errorf("Exists(%s) = %v, %v", path, got, err)
		}
	}
	must(f.Remove(ctx, "a"))
	must(f.Remove(ctx, "a"))
	if _, err := f.Read(ctx, "a/b.txt"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Read = %v, want ErrNotFound", err)
	}
	if _, err := f.Info(ctx, "a"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Info = %v, want ErrNotFound", err)
	}
}

func b2i(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func TestPortsInside(t *testing.T) {
	_, c := connect(t)
	sbx := create(t, c)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://anything.invalid/path", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := sbx.Transport(8000).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(resp.Body)
	if want := "port 8000 of " + sbx.ID + ": /path"; string(body) != want {
		t.Errorf("body = %q, want %q", body, want)
	}
	if url := sbx.URL(8000); url != "" {
		t.Errorf("URL = %q without a domain", url)
	}
}

func TestKeysAndTemplates(t *testing.T) {
	_, c := connect(t)
	ctx := t.Context()
	key, err := c.CreateKey(ctx, "laptop")
	if err != nil || !strings.HasPrefix(key.Text, "e2b_") {
		t.Fatalf("CreateKey = %+v, %v", key, err)
	}
	keys, err := c.Keys(ctx)
	if err != nil || len(keys) != 2 || keys[1].Name != "laptop" || keys[1].Text != "" || keys[0].Mask.String() != "e2b_01…4567" {
		t.Errorf("Keys = %+v, %v", keys, err)
	}
	if err := c.RevokeKey(ctx, key.ID); err != nil {
		t.Error(err)
	}
	if err := c.RevokeKey(ctx, key.ID); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("second RevokeKey = %v", err)
	}
	if err := c.RevokeKey(ctx, keys[0].ID); !errors.Is(err, client.ErrConflict) {
		t.Errorf("RevokeKey of the last = %v", err)
	}
	templates, err := c.Templates(ctx)
	if err != nil || len(templates) != 1 || templates[0].Aliases[0] != "base" || templates[0].MemoryMB != 1024 {
		t.Errorf("Templates = %+v, %v", templates, err)
	}
}

func TestConcurrentUse(t *testing.T) {
	_, c := connect(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			sbx, err := c.Create(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			got, err := sbx.Commands.Exec(t.Context(), []string{"echo", fmt.Sprint(i)})
			if err != nil || got.Stdout != fmt.Sprintln(i) {
				t.Errorf("Exec = %+v, %v", got, err)
			}
			if err := sbx.Kill(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
