// Command sandlot-agent is process 1 of every sandbox. The driver executes it
// twice: first outside, to set the namespaces up (package boot), then from
// inside the new root, to serve.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/sandlot-dev/sandlot/internal/agent"
	"github.com/sandlot-dev/sandlot/internal/agent/boot"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sandlot-agent:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		return serve()
	case args[0] == boot.Arg:
		return boot.Main()
	case args[0] == "hold":
		// Keeps a user namespace until the driver has opened it.
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	return fmt.Errorf("unknown argument %q: this program is started by sandlot only", args[0])
}

func serve() error {
	f := os.NewFile(boot.ListenerFD, "agent.sock")
	ln, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("take over listener: %w", err)
	}
	return agent.Serve(context.Background(), ln, agent.Options{Init: os.Getpid() == 1})
}
