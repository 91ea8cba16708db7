// Command vm proves Sandlot on the machines users have: it builds the disk of
// a stock Debian (distribution kernel, systemd, cgroup v2), boots it in QEMU,
// has it run the compiled tests found in this repository, and reports what the
// machine said on its serial line. Software emulation is enough.
//
//	go run ./test/vm                       # Debian 13, kernel 6.12
//	go run ./test/vm --machine debian12    # Debian 12, kernel 6.1: the fallbacks
//	go run ./test/vm --run 'driver|demo'   # only some of the suites
//
// It needs root and the Debian packages qemu-system-x86, e2fsprogs, mmdebstrap
// and debian-archive-keyring. Disks of machines are kept in .cache/vm under a
// hash of their recipe and never altered by a run. The exit status is 0 only
// if the machine reported its verdict and the verdict counts no failure.
//
// The package owns the recipe of the machines, the disk with what they run,
// and the emulator; package guest owns what happens inside.
package main
