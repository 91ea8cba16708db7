package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sandlot-dev/sandlot/test/harness"
)

// suite mirrors guest.Suite: one test binary the machine runs.
type suite struct {
	Name    string   `json:"name"`
	Argv    []string `json:"argv"`
	Dir     string   `json:"dir"`
	Env     []string `json:"env"`
	Seconds int      `json:"seconds"`
}

// payload is the second disk: the binary under test, the compiled test
// binaries with the files they read, and the list of suites.
type payload struct {
	Root    string // of the checkout
	Binary  string // bin/sandlot
	Base    string // the base template's cache, may be empty
	Machine machine
	Only    *regexp.Regexp
	Out     io.Writer
}

// elsewhere are tests that prove nothing about the machine and need what it
// has not: the Go tool chain and the source tree, or the network.
const elsewhere = "^(TestDependencies|TestRealBuild)$"

// archTests are about the source tree, which the machine has not.
const archTests = "internal/arch"

// inside is where the machine mounts the payload.
const inside = "/payload"

// make builds the payload as an image in dir.
func (p payload) make(ctx context.Context, dir string) (string, error) {
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return "", err
	}
	if err := p.goBuild(ctx, "build", filepath.Join(tree, "guest"), "./test/vm/guest"); err != nil {
		return "", err
	}
	if err := p.addBinary(tree); err != nil {
		return "", err
	}
	suites, err := p.suites(ctx, tree)
	if err != nil {
		return "", err
	}
	text, err := json.MarshalIndent(suites, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(tree, "suites.json"), text, 0o644); err != nil {
		return "", err
	}
	image := filepath.Join(dir, "payload.img")
	return image, makeImage(ctx, tree, image, fmt.Sprintf("%dM", sizeMiB(tree)*5/4+64))
}

func (p payload) addBinary(tree string) error {
	if err := copyFile(p.Binary, filepath.Join(tree, "sandlot")); err != nil {
		return fmt.Errorf("%w (make build makes it)", err)
	}
	if p.Base == "" {
		return nil
	}
	return copyTree(p.Base, filepath.Join(tree, "base"))
}

// suites compiles every package whose tests need root, and those of test/ that
// drive the real binary.
func (p payload) suites(ctx context.Context, tree string) ([]suite, error) {
	packages, err := p.rootPackages(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.programs(ctx, filepath.Join(tree, "programs")); err != nil {
		return nil, err
	}
	var out []suite
	for _, dir := range packages {
		name := strings.TrimPrefix(dir, "internal/")
		if p.Only != nil && !p.Only.MatchString(name) {
			continue
		}
		fmt.Fprintf(p.Out, "vm: compiling the tests of %s\n", dir)
		home := filepath.Join(tree, "src", dir)
		if err := os.MkdirAll(home, 0o755); err != nil {
			return nil, err
		}
		if err := p.goBuild(ctx, "test", filepath.Join(home, "suite.test"), "./"+dir); err != nil {
			return nil, err
		}
		if err := p.addFiles(ctx, dir, home); err != nil {
			return nil, err
		}
		out = append(out, p.suite(name, dir))
	}
	if len(out) == 0 {
		return nil, errors.New("no suite selected")
	}
	return out, nil
}

// programs compiles what the tests of drivers put into their sandboxes.
func (p payload) programs(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, pkg := range []string{
		"cmd/sandlot-agent", "cmd/sandlot-boot",
		"internal/driver/namespace/testdata/inside", "internal/driver/namespace/testdata/look",
	} {
		if err := p.goBuild(ctx, "build", filepath.Join(dir, filepath.Base(pkg)), "./"+pkg); err != nil {
			return err
		}
	}
	return nil
}

// suite describes one compiled package for the guest.
func (p payload) suite(name, dir string) suite {
	env := []string{
		"SANDLOT_BIN=" + inside + "/sandlot",
		"TMPDIR=/var/tmp", // /tmp is in memory, where EROFS images cannot be mounted from
		"SANDLOT_TEST_EMULATED=1",
		"SANDLOT_TEST_PROGRAMS=" + inside + "/programs",
		"SANDLOT_COMPAT_SLOW=10",     // emulation takes its time
		"SANDLOT_COMPAT_SDK=v2.51.0", // one version proves the machine
	}
	if p.Base != "" {
		env = append(env, "SANDLOT_BASE_CACHE="+inside+"/base")
	}
	if !p.Machine.Fallbacks {
		env = append(env, "SANDLOT_TEST_REQUIRE=all")
	}
	home := filepath.Join(inside, "src", dir)
	return suite{
		Name: name, Dir: home, Env: env, Seconds: 1200,
		Argv: []string{home + "/suite.test", "-test.v", "-test.timeout=1190s", "-test.skip=" + elsewhere},
	}
}

// rootPackages lists the packages whose tests say what they need of the
// machine, except those that need the source tree or another machine.
func (p payload) rootPackages(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-f", // what does not compile is reported below
		`{{.Dir}} {{join .TestImports " "}} {{join .XTestImports " "}}`, "./internal/...", "./test/...")
	cmd.Dir, cmd.Stderr = p.Root, p.Out
	listed, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(listed)) {
		f := strings.Fields(line)
		if len(f) == 0 || !needsMachine(f[1:]) {
			continue
		}
		rel, err := filepath.Rel(p.Root, f[0])
		if err != nil {
			return nil, err
		}
		if rel != archTests {
			out = append(out, rel)
		}
	}
	return out, nil
}

func needsMachine(imports []string) bool {
	for _, path := range imports {
		if strings.HasSuffix(path, "/internal/testreq") || strings.HasSuffix(path, "/test/harness") {
			return true
		}
	}
	return false
}

// addFiles copies what tests read at run time: testdata, and for the suites in
// test/ their scripts and installed modules.
func (p payload) addFiles(ctx context.Context, dir, home string) error {
	from := filepath.Join(p.Root, dir)
	if !strings.HasPrefix(dir, "test/") {
		from, home = filepath.Join(from, "testdata"), filepath.Join(home, "testdata")
		if _, err := os.Stat(from); err != nil {
			return nil
		}
	}
	locks, _ := filepath.Glob(filepath.Join(from, "package-lock.json")) // a valid pattern
	more, _ := filepath.Glob(filepath.Join(from, "*", "package-lock.json"))
	for _, lock := range append(locks, more...) {
		if err := harness.InstallModules(ctx, filepath.Dir(lock)); err != nil {
			return err
		}
	}
	return copyTree(from, home)
}

// goBuild compiles without cgo, so that the result runs on any Linux.
func (p payload) goBuild(ctx context.Context, verb, output, pkg string) error {
	args := []string{"-n", "10", "go", verb, "-o", output}
	if verb == "test" {
		args = append(args, "-c")
	}
	cmd := exec.CommandContext(ctx, "nice", append(args, pkg)...)
	cmd.Dir, cmd.Env = p.Root, append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = p.Out, p.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s %s: %w", verb, pkg, err)
	}
	return nil
}

// sizeMiB is what the files of a tree take, rounded up for ext4's blocks.
func sizeMiB(tree string) int64 {
	var total int64
	_ = filepath.WalkDir(tree, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := entry.Info(); err == nil {
			total += (info.Size()+4095)/4096*4096 + 512
		}
		return nil
	})
	return total >> 20
}
