// Command dispatcher takes requests, calls processors and keeps the timers.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/gcp"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/preflight"
	"sluice.dev/pkg/serve"
	"sluice.dev/pkg/telemetry"
	"sluice.dev/services/dispatcher/dispatch"
)

func main() { os.Exit(serve.Main("dispatcher", run)) }

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
	host, _ := os.Hostname()
	tokens := gcp.Tokens()
	before := &preflight.Preflight{
		Planner: &planner.Planner{Pipelines: pipelines, Warehouse: drivers.Warehouse, Latency: planner.CloudLatency}, Probe: preflight.Prober(tokens, time.Second),
		Topics: drivers.Bus.Checker([]string{event.TopicCompletions, event.TopicPhaseCompletions, event.TopicEvents}, receivers()...),
	}
	d := dispatch.New(dispatch.Options{
		Store: drivers.State, Bus: t.Publisher(drivers.Bus), Telemetry: t, Before: before, Keep: c.Keep, Watch: c.Watch,
		Caller: dispatch.NewCaller(tokens), Log: log, Now: time.Now, Holder: fmt.Sprintf("%s-%d-%d", host, os.Getpid(), time.Now().UnixNano()),
		LeaseTTL: 10 * time.Second, Tick: 500 * time.Millisecond, Grace: 4 * time.Second, Gather: time.Second,
	})
	return serve.Run(ctx, c, t, drivers.Bus, serve.Consumers(dispatch.Name, d.Handlers()), d.Run, nil)
}

// receivers are the subscriptions that must be there.
func receivers() []bus.Subscription {
	var out []bus.Subscription
	for _, topic := range dispatch.Topics() {
		out = append(out, bus.Subscription{Consumer: dispatch.Name, Topic: topic})
	}
	return out
}
