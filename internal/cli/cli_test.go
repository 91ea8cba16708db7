package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/clienttest"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// result is what one invocation gave.
type result struct {
	code     int
	out, err string
}

func invoke(ctx context.Context, env []string, in io.Reader, server Server, args ...string) result {
	var out, errOut bytes.Buffer
	code := Main(ctx, args, env, Stdio{In: in, Out: &out, Err: &errOut}, server)
	return result{code, out.String(), errOut.String()}
}

// against returns the environment of programs that use a fake server.
func against(t *testing.T) (*clienttest.Server, []string) {
	t.Helper()
	s := clienttest.New(t)
	return s, []string{"E2B_API_URL=" + s.URL, "E2B_API_KEY=" + clienttest.Key, "SANDLOT_DATA_DIR=" + t.TempDir()}
}

// fakeServer implements Server with functions; nil ones succeed.
type fakeServer struct {
	serve  func(context.Context, config.Config, io.Writer, io.Writer) error
	doctor func() ([]driver.Feature, error)
	calls  []string
}

func (s *fakeServer) Serve(ctx context.Context, cfg config.Config, out, errOut io.Writer) error {
	s.calls = append(s.calls, "serve "+cfg.Addr)
	if s.serve == nil {
		return nil
	}
	return s.serve(ctx, cfg, out, errOut)
}

func (s *fakeServer) Setup(_ context.Context, cfg config.Config, _ io.Writer) error {
	s.calls = append(s.calls, "setup "+cfg.DataDir)
	return nil
}

func (s *fakeServer) StopAll(_ context.Context, cfg config.Config) error {
	s.calls = append(s.calls, "stop-all "+cfg.DataDir)
	return nil
}

func (s *fakeServer) Purge(_ context.Context, cfg config.Config) error {
	s.calls = append(s.calls, "purge "+cfg.DataDir)
	return nil
}

func (s *fakeServer) Doctor(context.Context, config.Config) ([]driver.Feature, error) {
	return s.doctor()
}

func (s *fakeServer) Trust(_ context.Context, cfg config.Config, words io.Writer) error {
	s.calls = append(s.calls, "trust "+cfg.DataDir)
	_, err := io.WriteString(words, "trusted\n")
	return err
}

func (s *fakeServer) Distrust(_ context.Context, cfg config.Config, _ io.Writer) error {
	s.calls = append(s.calls, "distrust "+cfg.DataDir)
	return nil
}

func (s *fakeServer) TrustFiles(config.Config) (root, bundle string, err error) {
	return "/d/ca/root.pem", fmt.Sprintf("/bundle %d.pem", len(s.calls)), nil
}

func TestTrust(t *testing.T) {
	dir := t.TempDir()
	s := &fakeServer{}
	lines := func(n string) string {
		return "export NODE_EXTRA_CA_CERTS=/d/ca/root.pem\nexport SSL_CERT_FILE='/bundle " + n + ".pem'\n"
	}
	for _, c := range []struct {
		args []string
		want result
	}{
		{[]string{"trust", "--print"}, result{0, lines("0"), ""}},
		{[]string{"trust"}, result{0, lines("1"), "trusted\n"}},
		{[]string{"trust", "--uninstall"}, result{0, "", ""}},
		{[]string{"trust", "--print", "--json"}, result{0, "{\n  \"NODE_EXTRA_CA_CERTS\": \"/d/ca/root.pem\",\n  \"SSL_CERT_FILE\": \"/bundle 2.pem\"\n}\n", ""}},
	} {
		if got := invoke(t.Context(), []string{"SANDLOT_DATA_DIR=" + dir}, nil, s, c.args...); got != c.want {
			t.Errorf("%v = %+v, want %+v", c.args, got, c.want)
		}
	}
	if diff := cmp.Diff([]string{"trust " + dir, "distrust " + dir}, s.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if got := invoke(t.Context(), nil, nil, s, "trust", "--print", "--uninstall"); got.code != errs.Invalid.ExitCode() || len(s.calls) != 2 {
		t.Errorf("both = %+v", got)
	}
}

func TestServerCommandsGetTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	s := &fakeServer{}
	for _, args := range [][]string{
		{"serve", "--addr", "127.0.0.1:8000"},
		{"serve", "--stop-all", "--data-dir", dir},
		{"setup", "--data-dir", dir},
		{"purge", "--data-dir", dir},
	} {
		if got := invoke(t.Context(), []string{"SANDLOT_DATA_DIR=" + t.TempDir()}, nil, s, args...); got.code != 0 {
			t.Errorf("%v = %+v", args, got)
		}
	}
	want := []string{"serve 127.0.0.1:8000", "stop-all " + dir, "setup " + dir, "purge " + dir}
	if diff := cmp.Diff(want, s.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestServeErrorsAreOneLine(t *testing.T) {
	s := &fakeServer{serve: func(context.Context, config.Config, io.Writer, io.Writer) error {
		return errs.New(errs.Conflict, "another server uses this directory").WithHint("choose another with --data-dir")
	}}
	got := invoke(t.Context(), nil, nil, s, "serve", "--data-dir", t.TempDir())
	want := result{73, "", "error: another server uses this directory\nhint: choose another with --data-dir\n"}
	if got != want {
		t.Errorf("serve = %+v, want %+v", got, want)
	}
}

func TestDoctor(t *testing.T) {
	features := []driver.Feature{
		{Name: "user namespaces", OK: true, Detail: "work", Required: true},
		{Name: "btrfs", Detail: "not in this kernel", Cost: "disk limits are not enforced", Fix: "modprobe btrfs"},
	}
	s := &fakeServer{doctor: func() ([]driver.Feature, error) { return features, nil }}
	got := invoke(t.Context(), nil, nil, s, "doctor", "--data-dir", t.TempDir())
	want := `ok       user namespaces  work
missing  btrfs            not in this kernel
                          cost: disk limits are not enforced
                          fix: modprobe btrfs
`
	if got.code != 0 || got.out != want {
		t.Errorf("doctor = %+v, want\n%s", got, want)
	}
	features[0].OK, features[0].Fix = false, "boot another kernel"
	got = invoke(t.Context(), nil, nil, s, "doctor", "--json", "--data-dir", t.TempDir())
	var back []driver.Feature
	if err := json.Unmarshal([]byte(got.out), &back); err != nil || got.code != 69 ||
		got.err != "error: this host cannot run sandboxes: user namespaces is missing\nhint: boot another kernel\n" {
		t.Errorf("doctor = %+v, %v", got, err)
	}
}

func TestRunRemovesItsSandbox(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		in   string
		want result
	}{
		{"success", []string{"--", "echo", "hi"}, "", result{0, "hi\n", ""}},
		{"flags of the command", []string{"echo", "--json", "-x"}, "", result{0, "--json -x\n", ""}},
		{"exit code", []string{"--", "sh", "-c", "echo bad >&2; exit 7"}, "", result{7, "", "bad\n"}},
		{"signal", []string{"--", "sh", "-c", "kill -9 $$"}, "", result{137, "", ""}},
		{"stdin", []string{"--", "tr", "a-z", "A-Z"}, strings.Repeat("stdin ", 20000), result{0, strings.Repeat("STDIN ", 20000), ""}},
		{"stdin nobody reads", []string{"--", "true"}, strings.Repeat("x", 1<<20), result{0, "", ""}},
		{"environment", []string{"-e", "A=1", "--env", "B=2=3", "--cwd", "/", "-u", "root", "--", "sh", "-c", "echo $A $B $PWD $FAKE_USER"}, "", result{0, "1 2=3 / root\n", ""}},
		{"no such program", []string{"--", "/no/such"}, "", result{64, "", "error: fork/exec /no/such: no such file or directory\n"}},
		{"no such template", []string{"-t", "nope", "--", "true"}, "", result{66, "", "error: template nope does not exist\n"}},
		{"bad environment", []string{"-e", "A", "--", "true"}, "", result{64, "", "error: --env \"A\" is not KEY=VALUE\n"}},
		{"too slow", []string{"--timeout", "300ms", "--", "sleep", "60"}, "", result{75, "", "error: the command did not end within 300ms\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, env := against(t)
			got := invoke(t.Context(), env, strings.NewReader(tt.in), nil, append([]string{"run"}, tt.args...)...)
			if diff := cmp.Diff(fmt.Sprintf("%+v", tt.want), fmt.Sprintf("%+v", got)); diff != "" {
				t.Errorf("run (-want +got):\n%s", diff)
			}
			if left := server.IDs(); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestRunJSON(t *testing.T) {
	_, env := against(t)
	got := invoke(t.Context(), env, nil, nil, "run", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
	want := `{
  "sandboxID": "i0000000000000000002",
  "exitCode": 3,
  "stdout": "out\n",
  "stderr": "err\n"
}
`
	if got != (result{3, want, ""}) {
		t.Errorf("run = %+v", got)
	}
}

func TestInterruptedRunRemovesItsSandbox(t *testing.T) {
	server, env := against(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	go func() {
		buf := make([]byte, 16)
		_, _ = r.Read(buf) // the command runs
		cancel(errors.New("interrupt"))
	}()
	var errOut bytes.Buffer
	code := Main(ctx, []string{"run", "--", "sh", "-c", "echo up; sleep 60"}, env, Stdio{Out: w, Err: &errOut}, nil)
	if code != 130 || errOut.String() != "error: interrupted\n" {
		t.Errorf("exit code %d, standard error %q", code, errOut.String())
	}
	if left := server.IDs(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRunWhoseSandboxEnds(t *testing.T) {
	server, env := against(t)
	r, w := io.Pipe()
	go func() {
		buf := make([]byte, 16)
		_, _ = r.Read(buf)
		server.Drop(server.IDs()[0])
	}()
	var errOut bytes.Buffer
	code := Main(t.Context(), []string{"run", "--", "sh", "-c", "echo up; sleep 60"}, env, Stdio{Out: w, Err: &errOut}, nil)
	if code != 69 || !strings.Contains(errOut.String(), "was killed or reached its end of life") {
		t.Errorf("exit code %d, standard error %q", code, errOut.String())
	}
}

func TestSandboxCommands(t *testing.T) {
	server, env := against(t)
	c, err := client.New(client.Options{APIURL: server.URL, APIKey: clienttest.Key, Env: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 3 {
		sbx, err := c.Create(t.Context(), client.WithMetadata(map[string]string{"n": fmt.Sprint(i)}))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, sbx.ID)
	}
	in := func(args ...string) result { return invoke(t.Context(), env, nil, nil, args...) }

	var listed []client.SandboxInfo
	got := in("sandbox", "list", "--json", "-m", "n=1")
	if err := json.Unmarshal([]byte(got.out), &listed); err != nil || len(listed) != 1 || listed[0].ID != ids[1] {
		t.Errorf("list = %+v, %v", got, err)
	}
	if got = in("sandbox", "list"); strings.Count(got.out, "\n") != 4 || !strings.HasPrefix(got.out, "SANDBOX ") || !strings.Contains(got.out, "n=2") {
		t.Errorf("list = %+v", got)
	}
	if got = in("sandbox", "info", ids[0]); got.code != 0 || !strings.Contains(got.out, "memory    1G\n") {
		t.Errorf("info = %+v", got)
	}
	if got = in("sandbox", "exec", ids[0], "--", "sh", "-c", "echo in; exit 4"); got != (result{4, "in\n", ""}) {
		t.Errorf("exec = %+v", got)
	}
	if got = in("sandbox", "exec", "--user", "root", ids[0], "printenv", "FAKE_USER"); got != (result{0, "root\n", ""}) {
		t.Errorf("exec = %+v", got)
	}
	if got = in("sandbox", "kill", ids[0]); got != (result{}) {
		t.Errorf("kill = %+v", got)
	}
	if got = in("sandbox", "kill", ids[0]); got != (result{66, "", "error: sandbox " + ids[0] + " does not exist\n"}) {
		t.Errorf("kill = %+v", got)
	}
	if got = in("sandbox", "kill", "--all"); got != (result{0, "", "2 sandboxes ended\n"}) {
		t.Errorf("kill --all = %+v", got)
	}
	if got = in("sandbox", "list", "--json"); got.out != "[]\n" {
		t.Errorf("list = %+v", got)
	}
}

func TestKeysAndTemplates(t *testing.T) {
	_, env := against(t)
	in := func(args ...string) result { return invoke(t.Context(), env, nil, nil, args...) }
	if got := in("key", "create", "laptop"); got.code != 0 || !strings.HasPrefix(got.out, "e2b_") {
		t.Errorf("create = %+v", got)
	}
	if got := in("key", "list"); got.code != 0 || !strings.Contains(got.out, "laptop") || !strings.Contains(got.out, "e2b_01…4567") || strings.Contains(got.out, clienttest.Key) {
		t.Errorf("list = %+v", got)
	}
	var keys []client.Key
	if err := json.Unmarshal([]byte(in("key", "list", "--json").out), &keys); err != nil || len(keys) != 2 {
		t.Fatalf("keys = %+v, %v", keys, err)
	}
	if got := in("key", "revoke", keys[1].ID); got != (result{}) {
		t.Errorf("revoke = %+v", got)
	}
	if got := in("key", "revoke", keys[0].ID); got.code != 73 {
		t.Errorf("revoke of the last = %+v", got)
	}
	if got := in("template", "list"); !strings.Contains(got.out, "base0000000000000000  base   ready   2     1G") {
		t.Errorf("template list = %+v", got)
	}
}

func TestEnvQuotes(t *testing.T) {
	got := invoke(t.Context(), []string{"E2B_API_URL=http://h:1/a", "E2B_API_KEY=a'b c"}, nil, nil, "env")
	want := `export E2B_API_URL=http://h:1/a
export E2B_SANDBOX_URL=http://h:1/a
export E2B_VOLUME_API_URL=http://h:1/a
export E2B_API_KEY='a'\''b c'
`
	if got != (result{0, want, ""}) {
		t.Errorf("env = %+v", got)
	}
}

func TestKeepAliveStops(t *testing.T) {
	server, _ := against(t)
	c, err := client.New(client.Options{APIURL: server.URL, APIKey: clienttest.Key})
	if err != nil {
		t.Fatal(err)
	}
	sbx, err := c.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stop := keepAlive(t.Context(), sbx)
	done := time.AfterFunc(5*time.Second, func() { panic("keepAlive does not stop") })
	stop()
	done.Stop()
}
