package client_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/test/harness"
)

// screen keeps what a terminal shows; see waits for a text.
type screen struct {
	mu    sync.Mutex
	shown bytes.Buffer
	more  chan struct{}
}

func newScreen() *screen { return &screen{more: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown.Write(p)
	select {
	case s.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

// see waits for a text and forgets everything up to its end.
func (s *screen) see(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		all := s.shown.String()
		_, after, found := strings.Cut(all, text)
		if found {
			s.shown.Reset()
			s.shown.WriteString(after)
		}
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-s.more:
		case <-timeout:
			t.Fatalf("%q did not come; the terminal shows %q", text, all)
		}
	}
}

var _ io.Writer = (*screen)(nil)

// realTerminals runs the shell the SDKs run.
func realTerminals(t *testing.T, sbx *client.Sandbox) {
	t.Helper()
	ctx := t.Context()
	shown := newScreen()
	cmd, err := sbx.Commands.StartExec(ctx, []string{"/bin/bash", "-i", "-l"}, client.WithTerminal(100, 30), client.WithStdout(shown),
		client.WithVars(map[string]string{"PS1": "$ ", "TERM": "xterm-256color"}))
	if err != nil {
		t.Fatal(err)
	}
	typeIn := func(text string) {
		t.Helper()
		if err := cmd.TypeIn(ctx, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	shown.see(t, "$ ")
	typeIn("stat -c '<%U %G %a>' $(tty); stty size; echo $TERM=\n")
	shown.see(t, "<user tty 620>\r\n30 100\r\nxterm-256color=\r\n")
	if err := cmd.Resize(ctx, 120, 40); err != nil {
		t.Fatal(err)
	}
	typeIn("stty size; cat\n")
	shown.see(t, "\r40 120\r\n")
	typeIn("ü\n")
	shown.see(t, "ü\r\nü\r\n")
	typeIn("\x03")
	shown.see(t, "^C")
	shown.see(t, "$ ") // the prompt: the shell drops what was typed before
	typeIn("echo after=$?\n")
	shown.see(t, "after=130\r\n")
	if err := cmd.SendStdin(ctx, []byte("x")); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("SendStdin to a terminal = %v", err)
	}
	shown.see(t, "$ ")
	typeIn("exit 7\n")
	if got, err := cmd.Wait(ctx); got.ExitCode != 7 {
		t.Errorf("Wait = %+v, %v", got, err)
	}
	if err := sbx.Commands.Resize(ctx, cmd.PID, 1, 1); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("Resize after the end = %v", err)
	}
	if _, err := sbx.Commands.Run(ctx, "true", client.WithTerminal(-1, 5)); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("a terminal of -1 columns: %v", err)
	}
	_, err = sbx.Commands.Run(ctx, "sleep 60 & wait", client.WithTimeLimit(300*time.Millisecond))
	if exit, ok := errors.AsType[*client.ExitError](err); !ok || exit.Result.ExitCode != 137 || !strings.Contains(exit.Reason, "300ms") {
		t.Errorf("a command with a time limit: %v", err)
	}
}

// TestProcessLimit has a server allow ten processes in each sandbox.
func TestProcessLimit(t *testing.T) {
	server := harness.Start(t, harness.Options{Env: []string{"SANDLOT_LIMITS_PROCESSES=10"}})
	c, err := client.New(client.Options{DataDir: server.DataDir, Env: noEnv})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	sbx := create(t, c)
	var all []*client.Command
	for range 10 {
		cmd, err := sbx.Commands.Start(t.Context(), "sleep 600")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	if _, err := sbx.Commands.Run(t.Context(), "true"); !errors.Is(err, client.ErrExhausted) || !strings.Contains(err.Error(), "limits.processes") {
		t.Errorf("the eleventh: %v", err)
	}
	if _, err := create(t, c).Commands.Run(t.Context(), "true"); err != nil {
		t.Errorf("in another sandbox: %v", err)
	}
	if err := all[0].Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-all[0].Done()
	if _, err := sbx.Commands.Run(t.Context(), "true"); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}
