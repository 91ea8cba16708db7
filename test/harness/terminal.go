package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is a program that believes a person sits before it: its standard
// streams are a terminal, which is its controlling one.
type Terminal struct {
	t      testing.TB
	cmd    *exec.Cmd
	master *os.File
	closed chan struct{} // closed when everything written has been read

	mu   sync.Mutex
	text []byte // guarded by mu
}

// StartTerminal starts cmd in a terminal of the given size. What still runs
// when the test ends is killed.
func StartTerminal(t testing.TB, cmd *exec.Cmd, cols, rows uint16) *Terminal {
	t.Helper()
	master, slave, err := openTerminal()
	if err != nil {
		t.Fatalf("open a terminal: %v", err)
	}
	term := &Terminal{t: t, cmd: cmd, master: master, closed: make(chan struct{})}
	term.Resize(cols, rows)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	slave.Close()
	if err != nil {
		master.Close()
		t.Fatalf("start %s: %v", cmd, err)
	}
	go term.read()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has usually ended
		<-term.closed
		master.Close()
	})
	return term
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	return master, slave, nil
}

// read keeps what the program writes until its side of the terminal is closed.
func (term *Terminal) read() {
	defer close(term.closed)
	buf := make([]byte, 32<<10)
	for {
		n, err := term.master.Read(buf)
		term.mu.Lock()
		term.text = append(term.text, buf[:n]...)
		term.mu.Unlock()
		if err != nil { // EIO when nobody has the other side open
			return
		}
	}
}

// Text is everything the program has written.
func (term *Terminal) Text() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return string(term.text)
}

// Type sends keys to the program.
func (term *Terminal) Type(keys string) {
	term.t.Helper()
	if _, err := term.master.WriteString(keys); err != nil {
		term.t.Fatalf("type %q: %v", keys, err)
	}
}

// Resize gives the terminal another size.
func (term *Terminal) Resize(cols, rows uint16) {
	term.t.Helper()
	raw, err := term.master.SyscallConn()
	if err == nil {
		var ioctlErr error
		err = raw.Control(func(fd uintptr) {
			ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: cols, Row: rows})
		})
		err = errors.Join(err, ioctlErr)
	}
	if err != nil {
		term.t.Fatalf("resize the terminal: %v", err)
	}
}

// control are sequences that move the cursor, colour or name things, and
// carriage returns: no test is about them.
var control = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\a]*\a|\r`)

// Plain is Text without control sequences and carriage returns.
func (term *Terminal) Plain() string { return control.ReplaceAllString(term.Text(), "") }

// Await waits until Plain matches the expression, and returns the match with
// its groups.
func (term *Terminal) Await(expression string) []string {
	term.t.Helper()
	re := regexp.MustCompile(expression)
	deadline := time.Now().Add(30 * time.Second)
	for {
		if match := re.FindStringSubmatch(term.Plain()); match != nil {
			return match
		}
		if time.Now().After(deadline) {
			term.t.Fatalf("the terminal does not show %s but:\n%q", expression, term.Text())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Wait waits for the program's end and returns its exit code.
func (term *Terminal) Wait() int {
	term.t.Helper()
	done := make(chan struct{})
	go func() { _ = term.cmd.Wait(); close(done) }()
	select {
	case <-done:
		return term.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		_ = term.cmd.Process.Kill()
		<-done
		term.t.Fatalf("%s did not end; the terminal shows:\n%q", term.cmd, term.Text())
		return -1
	}
}
