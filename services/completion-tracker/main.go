// Command completion-tracker records what processors report.
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/gcp"
	"sluice.dev/pkg/serve"
	"sluice.dev/pkg/telemetry"
	"sluice.dev/services/completion-tracker/tracker"
)

func main() { os.Exit(serve.Main("completion-tracker", run)) }

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
	tr := tracker.New(drivers.State, t.Publisher(drivers.Bus), pipelines, t.Metrics, log, time.Now)
	handlers := map[string]bus.Handler{}
	for _, topic := range tr.Topics() {
		handlers[topic] = tr.Handle(topic)
	}
	return serve.Run(ctx, c, t, drivers.Subscriber, serve.Consumers(tracker.Name, handlers), nil, drivers.Push)
}
