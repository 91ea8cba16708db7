// Command guest runs inside the test machine as its only service: it runs
// compiled Go test binaries one after another, counts their tests, prints
// "sandlot-vm: N passed, N failed" and ends. What to run is in the JSON file
// named by its argument; package main in test/vm writes it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Suite is one test binary.
type Suite struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"`
	Dir  string   `json:"dir"`
	Env  []string `json:"env"`
	// Seconds bounds the run.
	Seconds int `json:"seconds"`
}

func main() {
	os.Exit(Main(os.Args[1:], os.Stdout))
}

// Main runs the suites of the file named by args and prints the verdict.
func Main(args []string, out io.Writer) int {
	suites, err := load(args)
	if err != nil {
		fmt.Fprintln(out, "guest: error:", err)
		return 2
	}
	describe(out)
	var total tally
	for _, s := range suites {
		total.add(s.run(out))
	}
	for _, name := range total.names {
		fmt.Fprintln(out, "guest: failed:", name)
	}
	fmt.Fprintf(out, "\nsandlot-vm: %d passed, %d failed\n", total.passed, total.failed)
	return 0
}

func load(args []string) ([]Suite, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("usage: guest SUITES.json")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return nil, err
	}
	var suites []Suite
	return suites, json.Unmarshal(text, &suites)
}

// describe prints what kind of machine this is, for whoever reads the log.
func describe(out io.Writer) {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	fmt.Fprintf(out, "guest: kernel %s, cgroup v2 controllers: %s\n", strings.TrimSpace(string(release)), strings.TrimSpace(string(controllers)))
}

// tally counts tests.
type tally struct {
	passed, failed, skipped int
	names                   []string // of what failed
}

func (t *tally) add(o tally) {
	t.passed += o.passed
	t.failed += o.failed
	t.skipped += o.skipped
	t.names = append(t.names, o.names...)
}

// run runs one suite. A binary that fails without naming a failed test (a
// panic, a time-out, a missing file) counts as one failure.
func (s Suite) run(out io.Writer) tally {
	start := time.Now()
	fmt.Fprintf(out, "\nguest: === %s\n", s.Name)
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(s.Seconds)*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Argv[0], s.Argv[1:]...)
	cmd.Dir, cmd.Env = s.Dir, append(os.Environ(), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	counted := make(chan tally)
	go func() { counted <- count(reader, out) }()
	err := cmd.Run()
	writer.Close()
	result := <-counted
	if err != nil && result.failed == 0 {
		result.failed++
		result.names = append(result.names, err.Error())
	}
	if err == nil && result.passed+result.failed+result.skipped == 0 {
		result.failed++
		result.names = append(result.names, "no test ran")
	}
	for i, name := range result.names {
		result.names[i] = s.Name + ": " + name
	}
	fmt.Fprintf(out, "guest: === %s: %d passed, %d failed, %d skipped in %.1f s\n",
		s.Name, result.passed, result.failed, result.skipped, time.Since(start).Seconds())
	return result
}

// count copies verbose output of a Go test binary to out and counts the
// results in it, subtests included.
func count(in io.Reader, out io.Writer) tally {
	var t tally
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		io.WriteString(out, line)
		text := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(text, "--- PASS: "):
			t.passed++
		case strings.HasPrefix(text, "--- SKIP: "):
			t.skipped++
		case strings.HasPrefix(text, "--- FAIL: "):
			t.failed++
			t.names = append(t.names, strings.TrimPrefix(text, "--- FAIL: "))
		}
		if err != nil {
			return t
		}
	}
}
