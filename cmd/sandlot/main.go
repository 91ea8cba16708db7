// Command sandlot is the server and the command line of Sandlot.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/sandlot-dev/sandlot/internal/cli"
	"github.com/sandlot-dev/sandlot/internal/daemon"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	stdio := cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	return cli.Main(ctx, os.Args[1:], os.Environ(), stdio, daemon.Daemon{})
}
