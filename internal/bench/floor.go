package bench

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"
)

// usualFloor is what a command is compared with.
const usualFloor = "a local fork, exec and wait of /bin/true"

// forkExecWait times the least any command can cost here: a local fork, exec
// and wait of /bin/true.
func forkExecWait(ctx context.Context) (float64, error) {
	start := time.Now()
	err := exec.CommandContext(ctx, "/bin/true").Run()
	return ms(start), err
}

// runc times whole runs of a bundle that holds one tiny program.
func runc(ctx context.Context, b *bench) (outcome, error) {
	path, err := exec.LookPath("runc")
	if err != nil {
		return outcome{}, skip("runc is not installed")
	}
	if os.Geteuid() != 0 {
		return outcome{}, skip("runc needs root")
	}
	dir, err := os.MkdirTemp("", "sandlot-bench-")
	if err != nil {
		return outcome{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := makeBundle(ctx, path, dir); err != nil {
		return outcome{}, err
	}
	id := 0
	return b.sampled(ctx, b.pick(20, 5), func(ctx context.Context) (float64, bool, error) {
		id++
		name := "sandlot-bench-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(id)
		cmd := exec.CommandContext(ctx, path, "--root", filepath.Join(dir, "state"), "run", "--bundle", dir, name)
		start := time.Now()
		text, err := cmd.CombinedOutput()
		if err != nil {
			return 0, false, skip("runc does not run here: " + string(bytes.TrimSpace(text)))
		}
		return ms(start), true, nil
	})
}

// makeBundle writes runc's own default configuration, changed to run the tiny
// program without a terminal.
func makeBundle(ctx context.Context, runc, dir string) error {
	program, err := exitProgram(runtime.GOARCH)
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "true"), program, 0o755); err != nil {
		return err
	}
	if text, err := exec.CommandContext(ctx, runc, "spec", "--bundle", dir).CombinedOutput(); err != nil {
		return skip("runc spec: " + string(bytes.TrimSpace(text)))
	}
	path := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		return errors.New("runc's default configuration has no process")
	}
	process["terminal"] = false
	process["args"] = []string{"/true"}
	if text, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// exitCode holds the machine code of exit(0).
var exitCode = map[string]struct {
	machine elf.Machine
	code    []byte
}{
	"amd64": {elf.EM_X86_64, []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}},                // mov eax, 60; xor edi, edi; syscall
	"arm64": {elf.EM_AARCH64, []byte{0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0, 0xd4}}, // mov x8, 93; mov x0, 0; svc 0
}

// exitProgram writes the smallest static executable: exit(0) and nothing else,
// so that the runtime is timed and not what it runs.
func exitProgram(arch string) ([]byte, error) {
	const base, headers = 0x400000, 64 + 56 // the ELF and one program header
	exit, ok := exitCode[arch]
	if !ok {
		return nil, skip("no program for runc to run on " + arch)
	}
	size := uint64(headers + len(exit.code))
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(exit.machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
		Filesz: size, Memsz: size, Align: 0x1000,
	}
	var out bytes.Buffer
	for _, part := range []any{header, segment, exit.code} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}
