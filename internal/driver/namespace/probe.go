package namespace

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/driver"
)

// Probe looks for what launching needs of the kernel. A launch itself is the
// real proof; the caller makes one.
func (d *Driver) Probe(context.Context) (driver.Caps, error) {
	caps := driver.Caps{Features: []driver.Feature{
		feature("user namespaces", exists("/proc/self/ns/user"), "a kernel with CONFIG_USER_NS"),
		feature("overlay file system", hasFilesystem("overlay"), "a kernel with overlayfs (modprobe overlay)"),
		feature("seccomp filters", exists("/proc/sys/kernel/seccomp/actions_avail"), "a kernel with CONFIG_SECCOMP_FILTER"),
		d.cgroupFeature(),
	}}
	var missing error
	for _, f := range caps.Features {
		if f.Required && !f.OK {
			missing = errors.Join(missing, errors.New(f.Name+" is missing: "+f.Fix))
		}
	}
	return caps, missing
}

func feature(name string, ok bool, fix string) driver.Feature {
	f := driver.Feature{Name: name, OK: ok, Required: true}
	if !ok {
		f.Cost, f.Fix = "no sandbox can start", fix
	}
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// hasFilesystem reports whether the kernel has a file system type, loading its
// module if need be: fsopen(2) does both.
func hasFilesystem(name string) bool {
	fd, err := unix.Fsopen(name, unix.FSOPEN_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

func (d *Driver) cgroupFeature() driver.Feature {
	f := driver.Feature{Name: "cgroups", OK: true, Required: true, Detail: "v1"}
	if d.cgroups.unified {
		f.Detail = "v2"
		return f
	}
	f.Cost = "joining a v1 cgroup takes 5-10 ms; the pool hides it"
	f.Fix = "boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2"
	return f
}
