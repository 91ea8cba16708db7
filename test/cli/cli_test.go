// Package cli_test runs E2B's own command line, unmodified, against the real
// binary: every command that works with sandboxes, in pipes as scripts use it
// and in a terminal as people do.
package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/test/harness"
)

// e2b is the command line, with the variables that lead it to a server.
type e2b struct {
	node, script string
	env          []string
}

// result is how a run of the command line ended.
type result struct {
	stdout, stderr string
	code           int
}

func install(t *testing.T, server *harness.Server) e2b {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	node := harness.Node(t, dir)
	env := append(os.Environ(), server.Env()...)
	// No login of the person who runs the test, nor a question for a newer version.
	env = append(env, "HOME="+t.TempDir(), "NO_COLOR=1", "NO_UPDATE_NOTIFIER=1")
	return e2b{node: node, script: filepath.Join(dir, "node_modules", "@e2b", "cli", "dist", "index.js"), env: env}
}

func (e e2b) cmd(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), e.node, append([]string{e.script}, args...)...)
	cmd.Env = e.env
	return cmd
}

// run runs the command line with the given standard input; "" is an empty one
// that is no pipe.
func (e e2b) run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := e.cmd(t, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("e2b %v: %v", args, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// ok runs the command line and returns what it wrote; a failure ends the test.
func (e e2b) ok(t *testing.T, args ...string) string {
	t.Helper()
	r := e.run(t, "", args...)
	if r.code != 0 {
		t.Fatalf("e2b %v: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// create makes a sandbox without a terminal and returns its id.
func (e e2b) create(t *testing.T, args ...string) string {
	t.Helper()
	id := strings.TrimSpace(e.ok(t, append([]string{"sandbox", "create", "-d"}, args...)...))
	if id == "" || strings.ContainsAny(id, " \n") {
		t.Fatalf("e2b sandbox create -d wrote %q, want an id", id)
	}
	return id
}

// ids are the sandboxes the list shows, with further arguments.
func (e e2b) ids(t *testing.T, args ...string) []string {
	t.Helper()
	var items []struct{ SandboxID string }
	out := e.ok(t, append([]string{"sandbox", "list", "-f", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &items); err != nil {
		t.Fatalf("e2b sandbox list -f json: %v in %q", err, out)
	}
	var ids []string
	for _, item := range items {
		ids = append(ids, item.SandboxID)
	}
	return ids
}

// TestCommandLine shares one server: each start costs more than the cases.
func TestCommandLine(t *testing.T) {
	server := harness.Start(t, harness.Options{})
	cli := install(t, server)
	t.Run("each", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, e2b){
			"create, list, info, kill":      testLife,
			"exec":                          testExec,
			"exec with stdin":               testExecStdin,
			"exec in the background":        testExecBackground,
			"exec interrupted":              testExecInterrupted,
			"errors":                        testErrors,
			"create in a terminal":          testCreateTerminal,
			"connect in a terminal":         testConnectTerminal,
			"terminal of a killed sandbox":  testTerminalKilled,
			"terminal of a killed terminal": testShellKilled,
			"metrics":                       testMetrics,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, cli)
			})
		}
	})
	t.Run("kill all", func(t *testing.T) { testKillAll(t, cli) })
}

func testLife(t *testing.T, cli e2b) {
	id := cli.create(t, "base", "--timeout", "120")
	if ids := cli.ids(t); !slices.Contains(ids, id) {
		t.Errorf("list shows %v, not %s", ids, id)
	}
	if ids := cli.ids(t, "-t", "base"); !slices.Contains(ids, id) {
		t.Errorf("list -t base shows %v, not %s", ids, id)
	}
	if table := cli.ok(t, "sandbox", "list"); !strings.Contains(table, id) || !strings.Contains(table, "Running") {
		t.Errorf("the table of sandboxes is\n%s", table)
	}
	info := cli.ok(t, "sandbox", "info", id)
	for _, want := range []string{id, "State: running", "vCPUs: 2", "RAM MiB: 1024"} {
		if !strings.Contains(info, want) {
			t.Errorf("info lacks %q:\n%s", want, info)
		}
	}
	cli.ok(t, "sandbox", "kill", id)
	if ids := cli.ids(t); slices.Contains(ids, id) {
		t.Errorf("list shows %s after its kill", id)
	}
	if r := cli.run(t, "", "sandbox", "info", id); r.code == 0 || !strings.Contains(r.stdout+r.stderr, "wasn't found") {
		t.Errorf("info of a killed sandbox: %+v", r)
	}
}

func testExec(t *testing.T, cli e2b) {
	id := cli.create(t)
	for _, tt := range []struct {
		name string
		args []string
		want result
	}{
		{"output apart", []string{id, "echo out; echo err >&2"}, result{"out\n", "err\n", 0}},
		{"exit code", []string{id, "exit 7"}, result{"", "exit status 7\n", 7}},
		{"words stay words", []string{id, "printf", "<%s>", "a b", "$HOME", "it's"}, result{"<a b><$HOME><it's>", "", 0}},
		{"options of the command", []string{id, "ls", "-d", "/tmp"}, result{"/tmp\n", "", 0}},
		{"user", []string{"-u", "root", id, "id -un"}, result{"root\n", "", 0}},
		{"directory", []string{"-c", "/usr/share", id, "pwd"}, result{"/usr/share\n", "", 0}},
		{"variables", []string{"-e", "A=1", "-e", "B=x y=z", id, `echo "$A,$B"`}, result{"1,x y=z\n", "", 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := cli.run(t, "", append([]string{"sandbox", "exec"}, tt.args...)...); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func testExecStdin(t *testing.T, cli e2b) {
	id := cli.create(t)
	text := strings.Repeat("a line with ü\n", 40_000)
	if r := cli.run(t, text, "sandbox", "exec", id, "tee /tmp/in | wc -c"); r.code != 0 || strings.TrimSpace(r.stdout) != strconv.Itoa(len(text)) {
		t.Errorf("half a megabyte through a pipe: %+v", r)
	}
	if r := cli.run(t, "echo from the script; exit 4\n", "sandbox", "exec", id, "bash"); r.code != 4 || r.stdout != "from the script\n" {
		t.Errorf("a script through a pipe: %+v", r)
	}
	if r := cli.run(t, text, "sandbox", "exec", id, "true"); r.code != 0 {
		t.Errorf("a command that does not read: %+v", r)
	}
}

func testExecBackground(t *testing.T, cli e2b) {
	id := cli.create(t)
	start := time.Now()
	r := cli.run(t, "", "sandbox", "exec", "-b", id, "sleep 40; echo late > /tmp/late")
	pid := strings.TrimSpace(r.stderr)
	if _, err := strconv.Atoi(pid); err != nil || r.code != 0 {
		t.Fatalf("exec -b: %+v, want a pid", r)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("exec -b took %s", took)
	}
	if got := cli.ok(t, "sandbox", "exec", id, "test -d /proc/"+pid+" && echo runs"); got != "runs\n" {
		t.Errorf("the command no longer runs: %q", got)
	}
	if r := cli.run(t, "for later\n", "sandbox", "exec", "-b", id, "cat > /tmp/given"); r.code != 0 {
		t.Fatalf("exec -b with stdin: %+v", r)
	}
	if got := cli.ok(t, "sandbox", "exec", id, "for i in $(seq 50); do test -s /tmp/given && break; sleep 0.1; done; cat /tmp/given"); got != "for later\n" {
		t.Errorf("the background command got %q", got)
	}
}

// testExecInterrupted: Ctrl-C at the command line ends the command in the sandbox.
func testExecInterrupted(t *testing.T, cli e2b) {
	id := cli.create(t)
	term := harness.StartTerminal(t, cli.cmd(t, "sandbox", "exec", id, "echo started; exec sleep 4714"), 80, 24)
	term.Await(`started\n`)
	term.Type("\x03")
	if code := term.Wait(); code == 0 {
		t.Errorf("exit code %d, want a failure; it wrote %q", code, term.Text())
	}
	if got := cli.ok(t, "sandbox", "exec", id, "pgrep -fx 'sleep 4714' || echo gone"); got != "gone\n" {
		t.Errorf("the command still runs as %q", got)
	}
}

func testErrors(t *testing.T, cli e2b) {
	id := cli.create(t)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no such sandbox", []string{"sandbox", "exec", "i0000000000000000000", "true"}, "not found"},
		{"no such template", []string{"sandbox", "create", "-d", "no-such-template"}, "no-such-template"},
		{"no such directory", []string{"sandbox", "exec", "-c", "/no/such", id, "true"}, "/no/such"},
		{"no such user", []string{"sandbox", "exec", "-u", "nobody-knows", id, "true"}, "nobody-knows"},
		{"pause is for later", []string{"sandbox", "pause", id}, "paus"},
		{"snapshots are for later", []string{"sandbox", "snapshot", "create", id}, "snapshot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := cli.run(t, "", tt.args...)
			if r.code == 0 || !strings.Contains(r.stdout+r.stderr, tt.want) {
				t.Errorf("got %+v, want a failure that names %q", r, tt.want)
			}
		})
	}
	if got := cli.ok(t, "sandbox", "exec", id, "echo unharmed"); got != "unharmed\n" {
		t.Errorf("after the errors: %q", got)
	}
}

func testCreateTerminal(t *testing.T, cli e2b) {
	term := harness.StartTerminal(t, cli.cmd(t, "sandbox", "create", "base", "-e", "GIVEN=a b", "-c", "/tmp"), 97, 29)
	id := term.Await(`with sandbox ID ([a-z0-9]+)`)[1]
	term.Await(`\$ `)
	term.Type("stty size; echo \"<$GIVEN>\" $PWD\r")
	term.Await(`\n29 97\n<a b> /tmp\n`)
	term.Resize(120, 40)
	term.Type("for i in $(seq 50); do test \"$(stty size)\" = '40 120' && break; sleep 0.1; done; echo now $(stty size)\r")
	term.Await(`\nnow 40 120\n`)
	term.Type("echo wai''ting; sleep 1000\r")
	term.Await(`\nwaiting\n`)
	term.Type("\x03")
	term.Await(`\^C\n`)
	term.Type("echo status=$?\r")
	term.Await(`\nstatus=130\n`)
	if ids := cli.ids(t); !slices.Contains(ids, id) {
		t.Errorf("list shows %v, not %s", ids, id)
	}
	term.Type("exit\r")
	term.Await(`Closing terminal connection`)
	if code := term.Wait(); code != 0 {
		t.Errorf("exit code %d; the terminal shows %q", code, term.Text())
	}
	// The command line gives the sandbox one more second.
	deadline := time.Now().Add(20 * time.Second)
	for slices.Contains(cli.ids(t), id) {
		if time.Now().After(deadline) {
			t.Fatal("the sandbox outlives its terminal")
		}
	}
}

func testConnectTerminal(t *testing.T, cli e2b) {
	id := cli.create(t, "--timeout", "300")
	cli.ok(t, "sandbox", "exec", id, "echo was here > /tmp/before")
	term := harness.StartTerminal(t, cli.cmd(t, "sandbox", "connect", "-u", "root", id), 80, 24)
	term.Await(`[#$] `)
	term.Type("cat /tmp/before; id -un; tty\r")
	term.Await(`\nwas here\nroot\n/dev/pts/\d+\n`)
	term.Type("exit\r")
	term.Await(`Closing terminal connection`)
	if code := term.Wait(); code != 0 {
		t.Errorf("exit code %d; the terminal shows %q", code, term.Text())
	}
	if ids := cli.ids(t); !slices.Contains(ids, id) {
		t.Errorf("the sandbox ended with the terminal: %v", ids)
	}
}

func testTerminalKilled(t *testing.T, cli e2b) {
	id := cli.create(t, "--timeout", "300")
	term := harness.StartTerminal(t, cli.cmd(t, "sandbox", "connect", id), 80, 24)
	term.Await(`\$ `)
	cli.ok(t, "sandbox", "kill", id)
	if code := term.Wait(); code == 0 {
		t.Errorf("exit code %d, want a failure; the terminal shows %q", code, term.Text())
	}
}

// testShellKilled: a shell that is killed ends its terminal without complaint.
func testShellKilled(t *testing.T, cli e2b) {
	id := cli.create(t, "--timeout", "300")
	term := harness.StartTerminal(t, cli.cmd(t, "sandbox", "connect", id), 80, 24)
	term.Await(`\$ `)
	term.Type("kill -KILL $$\r")
	if code := term.Wait(); code != 0 || strings.Contains(term.Text(), "Error") {
		t.Errorf("exit code %d; the terminal shows %q", code, term.Text())
	}
}

func testMetrics(t *testing.T, cli e2b) {
	id := cli.create(t, "--timeout", "300")
	deadline := time.Now().Add(30 * time.Second)
	for {
		out := cli.ok(t, "sandbox", "metrics", id)
		if strings.Contains(out, "/  2 Cores") && strings.Contains(out, "/ 1024") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("metrics show\n%s", out)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func testKillAll(t *testing.T, cli e2b) {
	first, second := cli.create(t), cli.create(t)
	if ids := cli.ids(t); !slices.Contains(ids, first) || !slices.Contains(ids, second) {
		t.Fatalf("list shows %v, want %s and %s", ids, first, second)
	}
	cli.ok(t, "sandbox", "kill", "-a")
	if ids := cli.ids(t); len(ids) > 0 {
		t.Errorf("after kill -a there are %v", ids)
	}
}
