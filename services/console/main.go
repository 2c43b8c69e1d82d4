// Command console serves the API.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"sluice.dev/pkg/event"
	"sluice.dev/pkg/gcp"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/preflight"
	"sluice.dev/pkg/serve"
	"sluice.dev/pkg/telemetry"
	"sluice.dev/services/console/api"
)

func main() { os.Exit(serve.Main("console", run)) }

// run puts the service together from the drivers that the configuration names.
func run(ctx context.Context, c serve.Config, log *slog.Logger, t *telemetry.Telemetry) error {
	pipelines, err := gcp.Pipelines(ctx, c.Pipelines)
	if err != nil {
		return err
	}
	drivers, err := gcp.Open(ctx, c, log)
	if err != nil {
		return err
	}
	defer drivers.Close() //nolint:errcheck // the process ends
	before := &preflight.Preflight{
		Planner: &planner.Planner{Pipelines: pipelines, Warehouse: drivers.Warehouse, Latency: planner.CloudLatency},
		Owners:  drivers.State, Probe: preflight.Prober(gcp.Tokens(), time.Second),
		Topics: drivers.Bus.Checker([]string{event.TopicRequests, event.TopicControls}),
	}
	server := api.New(drivers.State, drivers.Bus, before, log, time.Now)
	return serve.Run(ctx, c, t, drivers.Bus, nil, nil, server.Handler())
}
