// Command sandlot-agent is process 1 of every sandbox, executed by sandlot-boot
// from inside the new root.
package main

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/sandlot-dev/sandlot/internal/agent"
	"github.com/sandlot-dev/sandlot/internal/agent/boot"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "sandlot-agent:", err)
		os.Exit(1)
	}
}

func serve() error {
	f := os.NewFile(boot.ListenerFD, "agent.sock")
	ln, err := net.FileListener(f)
	_ = f.Close() // FileListener has its own
	if err != nil {
		return fmt.Errorf("take over listener: %w", err)
	}
	return agent.Serve(context.Background(), ln, agent.Options{Init: os.Getpid() == 1})
}
