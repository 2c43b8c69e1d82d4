// Command completion-tracker records what processors report.
package main

import (
	"context"
	"log/slog"
	"os"

	"sluice.dev/pkg/serve"
)

func main() { os.Exit(serve.Main("completion-tracker", run)) }

// run puts the service together from the drivers that the configuration names.
func run(_ context.Context, c serve.Config, _ *slog.Logger) error {
	return c.CheckDrivers()
}
