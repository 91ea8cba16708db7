package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// emulator says how to boot.
type emulator struct {
	Accel  []string // tried in order, e.g. kvm, tcg
	CPUs   int
	Memory int // MiB
	Log    io.Writer
}

// arguments returns QEMU's command line for a machine's disk and its payload.
// Changes to the disk go to a temporary file: every run starts from the same.
func (e emulator) arguments(d disk, payload string) []string {
	args := []string{
		"-M", "q35", "-nodefaults", "-cpu", "max", "-smp", strconv.Itoa(e.CPUs), "-m", strconv.Itoa(e.Memory),
		"-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nic", "none",
		"-kernel", d.Kernel, "-initrd", d.Initrd,
		"-append", "root=/dev/vda rw console=ttyS0 quiet panic=-1",
		"-drive", "file=" + d.Image + ",format=raw,if=virtio,snapshot=on,cache=unsafe",
		"-drive", "file=" + payload + ",format=raw,if=virtio,readonly=on",
	}
	for _, accel := range e.Accel {
		if accel == "tcg" {
			accel = "tcg,thread=multi"
		}
		args = append(args, "-accel", accel)
	}
	return args
}

// boot runs the machine until it powers itself off and returns its verdict.
func (e emulator) boot(ctx context.Context, d disk, payload string) (verdict, error) {
	start := time.Now()
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "10", "qemu-system-x86_64"}, e.arguments(d, payload)...)...)
	cmd.WaitDelay = 10 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	serial, err := cmd.StdoutPipe()
	if err != nil {
		return verdict{}, err
	}
	if err := cmd.Start(); err != nil {
		return verdict{}, fmt.Errorf("start QEMU: %w", err)
	}
	v, readErr := listen(serial, e.Log, start)
	if err := errors.Join(readErr, cmd.Wait()); err != nil {
		if ctx.Err() != nil {
			return v, fmt.Errorf("the machine was still running after %s: %w", time.Since(start).Round(time.Second), context.Cause(ctx))
		}
		return v, fmt.Errorf("QEMU: %w\n%s", err, stderr.String())
	}
	return v, nil
}

// verdict is what the machine reported at its end.
type verdict struct {
	Given          bool
	Passed, Failed int
}

// err says why the run does not count as a success, if it does not.
func (v verdict) err() error {
	switch {
	case !v.Given:
		return errors.New("the machine powered off without a verdict")
	case v.Failed > 0:
		return fmt.Errorf("%d failed in the machine", v.Failed)
	case v.Passed == 0:
		return errors.New("the machine ran no test")
	}
	return nil
}

// Kernel and systemd write to the same line, so the verdict may follow other text.
var verdictLine = regexp.MustCompile(`sandlot-vm: (\d+) passed, (\d+) failed`)

// terminal matches the control sequences firmware and systemd send to consoles.
var terminal = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[c78])`)

// listen copies the serial line to log, each line with the machine's age, and
// finds the verdict. It returns at the end of the line.
func listen(serial io.Reader, log io.Writer, start time.Time) (verdict, error) {
	var v verdict
	scanner := bufio.NewScanner(serial)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		line := strings.TrimRight(terminal.ReplaceAllString(scanner.Text(), ""), "\r")
		fmt.Fprintf(log, "%6.1fs %s\n", time.Since(start).Seconds(), line)
		if m := verdictLine.FindStringSubmatch(line); m != nil {
			v.Given = true
			v.Passed, _ = strconv.Atoi(m[1])
			v.Failed, _ = strconv.Atoi(m[2])
		}
	}
	return v, scanner.Err()
}
