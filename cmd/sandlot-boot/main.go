// Command sandlot-boot is the first program of every sandbox: it sets up what
// lies around the agent and then becomes the agent. It is a program of its own
// because it starts in half the agent's time, having nothing of the agent's in it.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/boot"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sandlot-boot:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == boot.Arg:
		return boot.Main()
	case len(args) == 1 && args[0] == boot.HoldArg:
		// Keeps a user namespace until the driver has opened it and ends this.
		_, err := unix.Read(0, make([]byte, 1))
		return err
	}
	return fmt.Errorf("this program is started by sandlot only")
}
