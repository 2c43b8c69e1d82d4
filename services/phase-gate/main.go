// Command phase-gate opens phases.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/gcp"
	"sluice.dev/pkg/serve"
	"sluice.dev/pkg/telemetry"
	"sluice.dev/services/phase-gate/gate"
)

func main() { os.Exit(serve.Main("phase-gate", run)) }

// run puts the service together from the drivers that the configuration names.
func run(ctx context.Context, c serve.Config, log *slog.Logger, t *telemetry.Telemetry) error {
	drivers, err := gcp.Open(ctx, c, log)
	if err != nil {
		return err
	}
	defer drivers.Close() //nolint:errcheck // the process ends
	g := gate.New(drivers.State, t.Publisher(drivers.Bus), gate.Checks{Source: drivers.Warehouse, Gather: 250 * time.Millisecond}, t.Metrics, log, time.Now)
	handlers := map[string]bus.Handler{event.TopicPhaseCompletions: g.Handle}
	return serve.Run(ctx, c, t, drivers.Subscriber, serve.Consumers(gate.Name, handlers), nil, drivers.Push)
}
