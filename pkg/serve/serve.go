// Package serve is what every service's main does alike: read the configuration, log, listen first and
// then serve, and be gone soon after SIGTERM.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/kelseyhightower/envconfig"
	"golang.org/x/sync/errgroup"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/telemetry"
)

// Config is the part of the configuration that all services share, from variables with the prefix SLUICE_.
type Config struct {
	ProjectID          string        `envconfig:"PROJECT_ID"`
	Pipelines          string        `envconfig:"PIPELINES"`
	Bus                string        `default:"gcp"                    envconfig:"BUS"`
	State              string        `default:"firestore"              envconfig:"STATE"`
	Warehouse          string        `default:"bigquery"               envconfig:"WAREHOUSE"`
	Receive            string        `default:"pull"                   envconfig:"RECEIVE"`
	PushAudience       string        `envconfig:"PUSH_AUDIENCE"`
	PushServiceAccount string        `envconfig:"PUSH_SERVICE_ACCOUNT"`
	Database           string        `envconfig:"FIRESTORE_DATABASE"`
	Journal            string        `default:"sluice.backfill_events" envconfig:"JOURNAL"`
	MaxBytesBilled     int64         `envconfig:"MAX_BYTES_BILLED"`
	Region             string        `envconfig:"BIGQUERY_REGION"`
	Keep               time.Duration `default:"2160h"                  envconfig:"KEEP"`
	Watch              time.Duration `default:"1m"                     envconfig:"WATCH"`
	LogLevel           string        `default:"info"                   envconfig:"LOG_LEVEL"`
	Host               string        `envconfig:"HOST"`
	Port               int           `envconfig:"-"`
}

// Load reads the configuration and lists everything that is wrong with it.
func Load() (Config, error) {
	var c Config
	var faults fault.List
	if err := envconfig.Process("sluice", &c); err != nil {
		faults.Addf("%v", err)
	}
	port := struct {
		Port int `default:"8080" envconfig:"PORT"`
	}{}
	if err := envconfig.Process("", &port); err != nil {
		faults.Addf("%v", err)
	}
	c.Port = port.Port
	for name, v := range map[string]string{"SLUICE_PROJECT_ID": c.ProjectID, "SLUICE_PIPELINES": c.Pipelines} {
		if v == "" {
			faults.Addf("%s is missing", name)
		}
	}
	for name, choice := range map[string]struct {
		is   string
		from []string
	}{
		"SLUICE_BUS": {c.Bus, []string{"gcp", "local"}}, "SLUICE_STATE": {c.State, []string{"firestore", "sqlite"}},
		"SLUICE_WAREHOUSE": {c.Warehouse, []string{"bigquery", "sqlite"}}, "SLUICE_RECEIVE": {c.Receive, []string{"pull", "push"}},
	} {
		if !slices.Contains(choice.from, choice.is) {
			faults.Addf("%s is %q: use one of %v", name, choice.is, choice.from)
		}
	}
	if c.Receive == "push" && os.Getenv("PUBSUB_EMULATOR_HOST") == "" { // the emulator signs nothing
		for name, v := range map[string]string{"SLUICE_PUSH_AUDIENCE": c.PushAudience, "SLUICE_PUSH_SERVICE_ACCOUNT": c.PushServiceAccount} {
			if v == "" {
				faults.Addf("%s is missing: with SLUICE_RECEIVE=push it says whose requests are taken", name)
			}
		}
	}
	if _, err := level(c.LogLevel); err != nil {
		faults.Addf("SLUICE_LOG_LEVEL is %q: use debug, info, warn or error", c.LogLevel)
	}
	if c.Keep < 0 || c.Watch < time.Second {
		faults.Addf("SLUICE_KEEP is %s and SLUICE_WATCH %s: the first must not be below 0, the second not below 1s", c.Keep, c.Watch)
	}
	slices.Sort(faults)
	return c, faults.Err()
}

// CheckDrivers says which of the chosen drivers a service cannot be built from. Services that run apart
// share nothing in memory or on disk, so the embedded drivers work inside sluice local alone.
func (c Config) CheckDrivers() error {
	var faults fault.List
	for name, driver := range map[string]string{"SLUICE_BUS": c.Bus, "SLUICE_STATE": c.State, "SLUICE_WAREHOUSE": c.Warehouse} {
		if driver == "local" || driver == "sqlite" {
			faults.Addf("%s=%s works only inside sluice local, where all services share one process", name, driver)
		}
	}
	slices.Sort(faults)
	return faults.Err()
}

func level(s string) (slog.Level, error) {
	var l slog.Level
	return l, l.UnmarshalText([]byte(s))
}

// Main runs a service: run gets a context that ends with SIGINT or SIGTERM. It returns the exit code.
func Main(name string, run func(context.Context, Config, *slog.Logger, *telemetry.Telemetry) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c, err := Load()
	if err != nil {
		for _, f := range fault.Faults(err) {
			_, _ = fmt.Fprintf(os.Stderr, "%s: configuration: %s\n", name, f)
		}
		return 1
	}
	l, _ := level(c.LogLevel)
	log := telemetry.Logger(os.Stderr, l, c.ProjectID).With("service", name)
	t, err := telemetry.Start(ctx, name, false)
	if err == nil {
		err = Within(ctx, gone, log, func() error { return run(ctx, c, log, t) })
		if stop := t.Stop(ctx); stop != nil {
			log.WarnContext(ctx, "the last of the telemetry was not sent", "error", stop)
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		for _, f := range fault.Faults(err) {
			_, _ = fmt.Fprintf(os.Stderr, "%s: %s\n", name, f)
		}
		return 1
	}
	return 0
}

// gone is how long after the signal a program may take to end: Cloud Run kills it after ten seconds.
const gone = 7 * time.Second

// Within waits for run, but not for longer than d after ctx has ended: a client that has lost its server may not notice.
// What is left then is delivered again, or taken over, as after a kill.
func Within(ctx context.Context, d time.Duration, log *slog.Logger, run func() error) error {
	done := make(chan error, 1)
	go func() { done <- run() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(d):
		log.WarnContext(ctx, "not everything has stopped in time: the process ends without it")
		return nil
	}
}

// Consumer is a subscription with its handler.
type Consumer struct {
	bus.Subscription
	Handle bus.Handler
}

// Consumers pairs the topics that a consumer takes with their handlers.
func Consumers(consumer string, handlers map[string]bus.Handler) []Consumer {
	var out []Consumer
	for topic, h := range handlers {
		out = append(out, Consumer{bus.Subscription{Consumer: consumer, Topic: topic}, h})
	}
	return out
}

// Run serves health on the configured address, receives, and runs the service's own loop, if it has one, until ctx ends or
// one of them fails.
func Run(ctx context.Context, c Config, t *telemetry.Telemetry, sub bus.Subscriber, consumers []Consumer, loop func(context.Context) error, h http.Handler) error {
	g, ctx := errgroup.WithContext(ctx)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	if h != nil {
		mux.Handle("/", h)
	}
	g.Go(func() error { return HTTP(ctx, net.JoinHostPort(c.Host, strconv.Itoa(c.Port)), mux) })
	for _, x := range consumers {
		g.Go(func() error { return sub.Receive(ctx, x.Subscription, t.Handler(x.Consumer, x.Topic, x.Handle)) })
	}
	if loop != nil {
		g.Go(func() error { return loop(ctx) })
	}
	return g.Wait()
}

// HTTP listens on the address first and then serves until ctx ends; requests get three seconds to finish.
func HTTP(ctx context.Context, address string, h http.Handler) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}
