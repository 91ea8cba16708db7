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
	ctx, stop := signal.NotifyContext(context.Background(), signals()...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	stdio := cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	return cli.Main(ctx, os.Args[1:], os.Environ(), stdio, daemon.Daemon{})
}

// signals are those that end the program in order. SIGHUP comes when its
// terminal is closed, and stays ignored below nohup.
func signals() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}
