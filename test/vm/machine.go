package main

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// machine is a recipe: everything that decides what its disk holds, apart from
// the versions the distribution offers on the day.
type machine struct {
	Name  string
	Suite string
	// Packages are installed besides Debian's essential ones and apt.
	Packages []string
	// NodeSuite names the Debian release whose Node.js the machine uses, in a
	// directory of its own, where its own is too old for the SDK. Empty: its own.
	NodeSuite string
	// Fallbacks says that this kernel lacks features by design, so that tests
	// may skip what depends on them.
	Fallbacks bool
}

// machines are all there are; the first is the default.
func machines() []machine {
	common := []string{
		"systemd-sysv", "udev", "linux-image-cloud-amd64", // what makes it a machine
		"iproute2", "procps", "btrfs-progs", // what Sandlot calls
		"ca-certificates", "sudo",
	}
	return []machine{
		{Name: "debian13", Suite: "trixie", Packages: append(slices.Clone(common), "nodejs")},
		{Name: "debian12", Suite: "bookworm", Packages: common, NodeSuite: "trixie", Fallbacks: true},
	}
}

// machineNamed finds a machine.
func machineNamed(name string) (machine, error) {
	var names []string
	for _, m := range machines() {
		if m.Name == name {
			return m, nil
		}
		names = append(names, m.Name)
	}
	return machine{}, fmt.Errorf("no machine %q; there are %s", name, strings.Join(names, ", "))
}

// nodeRoot is where a machine with a NodeSuite keeps that release.
const nodeRoot = "/opt/node"

// unit runs the guest program once and powers the machine off, whatever comes
// of it. Its output goes to the serial line.
//
//go:embed guest/vm-test.service
var unit string

// nodeWrapper stands for node where it lives in nodeRoot.
const nodeWrapper = `#!/bin/sh
exec chroot ` + nodeRoot + ` /usr/bin/env -C "$PWD" /usr/bin/node "$@"
`

// key names the disk: it changes with anything that goes into it.
func (m machine) key() string {
	recipe, err := json.Marshal(m)
	if err != nil {
		panic(err) // a struct of strings
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n%d", recipe, unit, nodeWrapper, diskFormat)
	return m.Name + "-" + hex.EncodeToString(h.Sum(nil))[:12]
}

// diskFormat is raised when the code that lays out a disk changes its result.
const diskFormat = 3
