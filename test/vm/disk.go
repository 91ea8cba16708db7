package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/debian"
)

// disk is a bootable machine on the host's disk.
type disk struct {
	Image, Kernel, Initrd string
}

// need fails with every missing program and the package that has it.
func need() error {
	var missing []string
	for program, pkg := range map[string]string{
		"qemu-system-x86_64": "qemu-system-x86",
		"mkfs.ext4":          "e2fsprogs",
		"mmdebstrap":         "mmdebstrap",
	} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if _, err := os.Stat(debian.Keyring); err != nil {
		missing = append(missing, "debian-archive-keyring")
	}
	if len(missing) > 0 {
		return fmt.Errorf("packages are missing: apt-get install --no-install-recommends %s", strings.Join(missing, " "))
	}
	if os.Geteuid() != 0 {
		return errors.New("only root can build the machine's disk: run as root")
	}
	return nil
}

// ready returns the machine's disk, building it unless the cache has it.
func (m machine) ready(ctx context.Context, cache string, out io.Writer) (disk, error) {
	dir := filepath.Join(cache, m.key())
	d := disk{filepath.Join(dir, "root.img"), filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd")}
	if _, err := os.Stat(dir); err == nil {
		return d, nil
	}
	tmp := dir + ".tmp"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700)); err != nil {
		return disk{}, fmt.Errorf("prepare the cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := m.build(ctx, tmp, out); err != nil {
		return disk{}, fmt.Errorf("build the disk of %s: %w", m.Name, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return disk{}, fmt.Errorf("keep the disk: %w", err)
	}
	return d, m.forgetOthers(cache)
}

// forgetOthers removes disks of earlier recipes of the same machine.
func (m machine) forgetOthers(cache string) error {
	old, err := filepath.Glob(filepath.Join(cache, m.Name+"-*"))
	for _, path := range old {
		if filepath.Base(path) != m.key() {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}

func (m machine) build(ctx context.Context, dir string, out io.Writer) error {
	mirror, err := hostMirror()
	if err != nil {
		return err
	}
	tree := filepath.Join(dir, "tree")
	if err := debstrap(ctx, out, tree, m.Suite, mirror, m.Packages...); err != nil {
		return err
	}
	if m.NodeSuite != "" {
		if err := debstrap(ctx, out, filepath.Join(tree, nodeRoot), m.NodeSuite, mirror, "nodejs"); err != nil {
			return err
		}
	}
	if err := m.furnish(tree); err != nil {
		return err
	}
	for from, to := range map[string]string{"vmlinuz-*": "vmlinuz", "initrd.img-*": "initrd"} {
		if err := takeOne(filepath.Join(tree, "boot", from), filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	if err := makeImage(ctx, tree, filepath.Join(dir, "root.img"), "6G"); err != nil {
		return err
	}
	return os.RemoveAll(tree)
}

// hostMirror is where the host's own packages come from, or what
// SANDLOT_DEBIAN_MIRROR names.
func hostMirror() (debian.Mirror, error) {
	if text := os.Getenv("SANDLOT_DEBIAN_MIRROR"); text != "" {
		return debian.ParseMirror(text)
	}
	return debian.ReadHost("/").Mirror(), nil
}

// debstrap unpacks and configures a Debian release in dir.
func debstrap(ctx context.Context, out io.Writer, dir, suite string, mirror debian.Mirror, packages ...string) error {
	fmt.Fprintf(out, "vm: installing Debian %s, for which the network is needed\n", suite)
	args := []string{
		"-n", "10", "mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=apt",
		"--include=" + strings.Join(packages, ","),
		"--dpkgopt=force-unsafe-io", // the result is thrown away on a crash anyway
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
	}
	for _, option := range debian.AptOptions(ctx) {
		args = append(args, "--aptopt="+option)
	}
	args = append(append(args, suite, dir), mirror.Lines(suite)...)
	return run(ctx, out, "nice", args...)
}

// furnish adds the unit, the mount points and the serial line's owner.
func (m machine) furnish(tree string) error {
	points := []string{"payload"}
	if m.NodeSuite != "" {
		points = append(points, nodeRoot+"/payload")
	}
	for _, dir := range points {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/systemd/system/vm-test.service": unit,
		"etc/hostname":                       m.Name + "\n",
		"etc/fstab":                          "/dev/vda / ext4 defaults 0 1\n",
	}
	if m.NodeSuite != "" {
		files["usr/local/bin/node"] = nodeWrapper
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	system := filepath.Join(tree, "etc/systemd/system")
	wants := filepath.Join(system, "multi-user.target.wants/vm-test.service")
	// Nobody logs in: the serial line is for the test run alone.
	getty := filepath.Join(system, "serial-getty@ttyS0.service")
	return errors.Join(os.Symlink("../vm-test.service", wants), os.Symlink("/dev/null", getty))
}

// takeOne copies the last file that matches pattern.
func takeOne(pattern, to string) error {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return fmt.Errorf("no file %s", pattern)
	}
	return copyFile(found[len(found)-1], to)
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// copyTree copies a directory with its symbolic links; owners become root.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case entry.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case entry.Type().IsRegular():
			return copyFile(path, target)
		}
		return nil
	})
}

// makeImage makes a sparse ext4 image of size from a tree.
func makeImage(ctx context.Context, tree, image, size string) error {
	return run(ctx, io.Discard, "nice", "-n", "10", "mkfs.ext4", "-q", "-F", "-d", tree,
		"-E", "lazy_itable_init=1", "-m", "0", image, size)
}

// run runs a program; what it says is in the error if it fails.
func run(ctx context.Context, out io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	var said strings.Builder
	cmd.Stdout = io.MultiWriter(out, &said)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(append([]string{name}, args...), " "), err, said.String())
	}
	return nil
}
