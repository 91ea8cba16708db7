package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/pty"
	"github.com/sandlot-dev/sandlot/test/harness"
)

func TestShellNeedsATerminal(t *testing.T) {
	_, env := against(t)
	got := invoke(t.Context(), env, strings.NewReader(""), nil, "sandbox", "shell", "i123")
	if got.code != 64 || !strings.Contains(got.err, "not a terminal") || !strings.Contains(got.err, "sandbox exec") {
		t.Errorf("%+v", got)
	}
}

// window is a terminal with a person in front of it.
type window struct {
	t     *testing.T
	pair  *pty.Pair
	tty   *os.File
	shown bytes.Buffer
}

func openWindow(t *testing.T) *window {
	t.Helper()
	pair, err := pty.Open(pty.Size{Cols: 90, Rows: 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(pair.Program, true); err != nil {
		t.Fatal(err)
	}
	w := &window{t: t, pair: pair, tty: os.NewFile(uintptr(pair.Program), "tty")}
	t.Cleanup(func() { _, _ = w.tty.Close(), pair.Master.Close() })
	return w
}

func (w *window) typeIn(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w.pair.Master, text); err != nil {
		w.t.Fatal(err)
	}
}

// see reads until a text is shown, and forgets everything up to its end.
func (w *window) see(text string) {
	w.t.Helper()
	_ = w.pair.Master.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 4096)
	for {
		all := w.shown.String()
		if _, after, found := strings.Cut(all, text); found {
			w.shown.Reset()
			w.shown.WriteString(after)
			return
		}
		n, err := w.pair.Master.Read(buf)
		if err != nil {
			w.t.Fatalf("%v before %q; shown: %q", err, text, all)
		}
		w.shown.Write(buf[:n])
	}
}

// mode returns the terminal's settings.
func (w *window) mode() unix.Termios {
	w.t.Helper()
	mode, err := unix.IoctlGetTermios(w.pair.Program, unix.TCGETS)
	if err != nil {
		w.t.Fatal(err)
	}
	return *mode
}

// TestShell uses a real server from a real terminal.
func TestShell(t *testing.T) {
	server := harness.Start(t, harness.Options{})
	id := createdBy(t, server)
	w := openWindow(t)
	before := w.mode()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	run := func(args ...string) <-chan int {
		code := make(chan int, 1)
		go func() {
			env := append(server.Env(), "SANDLOT_DATA_DIR="+server.DataDir, "TERM=vt220")
			var errOut bytes.Buffer
			c := Main(ctx, args, env, Stdio{In: w.tty, Out: w.tty, Err: &errOut}, nil)
			t.Logf("%v ended with %d, %q", args, c, errOut.String())
			code <- c
		}()
		return code
	}
	code := run("sandbox", "shell", "--env", "PS1=$ ", id)
	w.see("$ ")
	w.typeIn("echo $(whoami) $TERM $(stty size)\r")
	w.see("user vt220 20 90\r\n")
	if err := pty.Resize(w.pair.Master, pty.Size{Cols: 70, Rows: 10}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), unix.SIGWINCH); err != nil { // this terminal controls nobody
		t.Fatal(err)
	}
	w.typeIn("until stty size | grep '10 70'; do sleep 0.05; done; cat\r")
	w.see("\r10 70\r\n")
	w.typeIn("\x03")
	w.see("^C")
	w.see("$ ") // the prompt: the shell drops what was typed before
	w.typeIn("exit 5\r")
	if c := <-code; c != 5 {
		t.Errorf("exit code %d", c)
	}
	if after := w.mode(); after != before {
		t.Errorf("the terminal's mode is %+v, was %+v", after, before)
	}

	code = run("sandbox", "shell", "--user", "root", id, "--", "sh", "-c", "id -u; exec sleep 600")
	w.see("0\r\n")
	cancel() // as when this terminal is closed
	if c := <-code; c != 130 {
		t.Errorf("exit code %d after the end of the context", c)
	}
	if after := w.mode(); after != before {
		t.Errorf("the terminal's mode is %+v, was %+v", after, before)
	}
	if out, err := server.TryCLI("sandbox", "exec", id, "--", "pgrep", "sleep"); err == nil {
		t.Errorf("what ran in the terminal is left: %s", out)
	}
}

func createdBy(t *testing.T, server *harness.Server) string {
	t.Helper()
	env := append(server.Env(), "SANDLOT_DATA_DIR="+server.DataDir)
	a := &app{env: env}
	c, err := a.client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	sbx, err := c.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sbx.ID
}
