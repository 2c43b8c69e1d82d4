// Command sluice is the command line, and with sluice local the whole system in one process.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"sluice.dev/services/sluice/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := command.Run(ctx, os.Args[1:], command.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
