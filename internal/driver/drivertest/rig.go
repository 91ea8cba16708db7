package drivertest

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sync"
	"testing"
)

// AgentPath and BootPath are where the agent and the program that boots it lie
// in the layer that AgentLayer returns.
const (
	AgentPath = ".sandlot/agent"
	BootPath  = ".sandlot/boot"
)

// compiled holds programs by package, each compiled once per test binary.
var compiled struct {
	mu       sync.Mutex
	programs map[string][]byte
}

// program returns a package's statically linked program.
func program(t testing.TB, pkg string) []byte {
	t.Helper()
	compiled.mu.Lock()
	defer compiled.mu.Unlock()
	data, ok := compiled.programs[pkg]
	if ok {
		return data
	}
	data, err := build(filepath.Join(t.TempDir(), "program"), pkg)
	if err != nil {
		t.Fatal(err)
	}
	if compiled.programs == nil {
		compiled.programs = map[string][]byte{}
	}
	compiled.programs[pkg] = data
	return data
}

// build compiles pkg, or takes it from SANDLOT_TEST_PROGRAMS where there is no
// Go to compile with.
func build(out, pkg string) ([]byte, error) {
	if dir := os.Getenv("SANDLOT_TEST_PROGRAMS"); dir != "" {
		return os.ReadFile(filepath.Join(dir, path.Base(pkg)))
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build %s: %w\n%s", pkg, err, said)
	}
	return os.ReadFile(out)
}

// AgentLayer returns a new root file system layer with the real programs at
// AgentPath and BootPath. It is removed when the test ends.
func AgentLayer(t testing.TB) string {
	t.Helper()
	const commands = "github.com/sandlot-dev/sandlot/cmd/"
	layer := t.TempDir()
	writeProgram(t, filepath.Join(layer, AgentPath), program(t, commands+"sandlot-agent"))
	writeProgram(t, filepath.Join(layer, BootPath), program(t, commands+"sandlot-boot"))
	return layer
}

// RootLayer returns a new root file system layer with the directories and
// accounts every root has and no program but those named: Go packages, compiled
// statically to /bin under the last part of their path. It is removed when the
// test ends.
func RootLayer(t testing.TB, packages ...string) string {
	t.Helper()
	root := t.TempDir()
	for dir, mode := range map[string]os.FileMode{
		"dev": 0o755, "proc": 0o555, "sys": 0o555, "run": 0o755, "etc": 0o755, "bin": 0o755, "root": 0o700,
		"tmp": 0o777 | os.ModeSticky, "home/user": 0o755,
	} {
		path := filepath.Join(root, dir)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
		"group":  "root:x:0:\nuser:x:1000:\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, pkg := range packages {
		writeProgram(t, filepath.Join(root, "bin", filepath.Base(pkg)), program(t, pkg))
	}
	return root
}

func writeProgram(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
}
