package reaper_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/reaper"
)

// subreaper makes this test binary play process 1.
const subreaper = "SANDLOT_TEST_SUBREAPER"

func TestMain(m *testing.M) {
	if os.Getenv(subreaper) != "" {
		playInit()
		return
	}
	goleak.VerifyTestMain(m)
}

func start(r *reaper.Reaper, script string) (*reaper.Child, <-chan syscall.WaitStatus, error) {
	exited := make(chan syscall.WaitStatus, 1)
	attr := &syscall.ProcAttr{Env: []string{"PATH=/usr/bin:/bin"}, Sys: &syscall.SysProcAttr{Setsid: true}, Files: []uintptr{0, 1, 2}}
	c, err := r.Start("/bin/sh", []string{"sh", "-c", script}, attr, func(s syscall.WaitStatus) { exited <- s })
	return c, exited, err
}

func TestStatus(t *testing.T) {
	r := reaper.New(reaper.Own)
	defer r.Close()
	for script, want := range map[string]string{
		"exit 0":      "exited true 0",
		"exit 42":     "exited true 42",
		"kill -9 $$":  "exited false -1",
		"kill -15 $$": "exited false -1",
	} {
		_, exited, err := start(r, script)
		if err != nil {
			t.Fatal(err)
		}
		s := <-exited
		if got := fmt.Sprintf("exited %v %d", s.Exited(), s.ExitStatus()); got != want {
			t.Errorf("%s: %s, want %s", script, got, want)
		}
	}
}

func TestSignalSession(t *testing.T) {
	r := reaper.New(reaper.Own)
	defer r.Close()
	c, exited, err := start(r, "sleep 60 & sleep 60")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignalSession(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s := <-exited; s.Signal() != syscall.SIGKILL {
		t.Errorf("ended by %v", s)
	}
	if err := c.SignalSession(syscall.SIGKILL); !errors.Is(err, reaper.ErrExited) {
		t.Errorf("signal after the end: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	r := reaper.New(reaper.Own)
	_, err := r.Start("/no/such/program", []string{"x"}, &syscall.ProcAttr{}, nil)
	if !errors.Is(err, syscall.ENOENT) {
		t.Errorf("missing program: %v", err)
	}
	r.Close()
	if _, _, err := start(r, ""); !errors.Is(err, os.ErrClosed) {
		t.Errorf("start after close: %v", err)
	}
	r.Close()
}

// TestForeignChildren runs the standard library's own children at the same time:
// nobody may take another's.
func TestForeignChildren(t *testing.T) {
	r := reaper.New(reaper.Own)
	defer r.Close()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			want := i % 7
			err := exec.Command("/bin/sh", "-c", fmt.Sprintf("exit %d", want)).Run()
			var exit *exec.ExitError
			if got := 0; err != nil && (!errors.As(err, &exit) || exit.ExitCode() != want) || err == nil && want != got {
				t.Errorf("os/exec: %v, want %d", err, want)
			}
		})
		wg.Go(func() {
			_, exited, err := start(r, fmt.Sprintf("exit %d", i))
			if err != nil {
				t.Error(err)
				return
			}
			if s := <-exited; s.ExitStatus() != i {
				t.Errorf("own child: %v, want %d", s, i)
			}
		})
	}
	wg.Wait()
}

// TestOrphans runs this binary as the one that inherits orphans, and expects
// that none of them stays a zombie.
func TestOrphans(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), subreaper+"=1")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil || string(out) != "ok\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// playInit starts processes that leave orphans behind and prints ok when all
// statuses were right and no zombie is left.
func playInit() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stdout, "become subreaper:", err)
		return
	}
	r := reaper.New(reaper.All)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			_, exited, err := start(r, fmt.Sprintf("(sleep 0.05; exit 3) & (exit 4) & exit %d", i))
			if err != nil {
				fmt.Fprintln(os.Stdout, "start:", err)
				return
			}
			if s := <-exited; s.ExitStatus() != i {
				fmt.Fprintln(os.Stdout, "status", s, "of child", i)
			}
		})
	}
	wg.Wait()
	for range 200 {
		if children() == "" {
			r.Close()
			fmt.Fprintln(os.Stdout, "ok")
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprintln(os.Stdout, "children left:", children())
}

// children lists the processes whose parent is this one.
func children() string {
	me := fmt.Sprint(os.Getpid())
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return err.Error()
	}
	var found []string
	for _, d := range dirs {
		f, err := os.Open("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue
		}
		line, _ := bufio.NewReader(f).ReadString('\n')
		_ = f.Close()
		_, rest, _ := strings.Cut(line, ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == me {
			found = append(found, d.Name())
		}
	}
	return strings.Join(found, " ")
}
