package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// scope names the instrumentation.
const scope = "sluice.dev"

// Telemetry is what a program sends of itself.
type Telemetry struct {
	Metrics *Metrics     // nil when nobody wants them
	Tracer  trace.Tracer // does nothing when nobody wants traces
	// Scrape serves the metrics in Prometheus' format; nil unless asked for.
	Scrape http.Handler
	stops  []func(context.Context) error
	// tracing says that somebody wants traces: without, not even their ids are computed.
	tracing bool
}

// Off sends nothing.
func Off() *Telemetry { return &Telemetry{Tracer: noop.NewTracerProvider().Tracer(scope)} }

// configured says whether the standard variables name an OTLP endpoint for a signal, TRACES or METRICS.
func configured(signal string) bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// Start sets up what the standard OTEL_ variables ask for: without an OTLP endpoint, nothing. scrape also serves metrics
// in Prometheus' format.
func Start(ctx context.Context, service string, scrape bool) (*Telemetry, error) {
	t := Off()
	res, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithAttributes(semconv.ServiceName(service)))
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if configured("TRACES") {
		exporter, err := otlptracehttp.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("telemetry: %w", err)
		}
		provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res))
		t.Tracer, t.tracing, t.stops = provider.Tracer(scope), true, append(t.stops, provider.Shutdown)
	}
	options := []metric.Option{metric.WithResource(res)}
	if scrape {
		registry := prometheus.NewRegistry()
		reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo())
		if err != nil {
			return nil, fmt.Errorf("telemetry: %w", err)
		}
		t.Scrape = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
		options = append(options, metric.WithReader(reader))
	}
	if configured("METRICS") {
		exporter, err := otlpmetrichttp.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("telemetry: %w", err)
		}
		options = append(options, metric.WithReader(metric.NewPeriodicReader(exporter)))
	}
	if len(options) == 1 {
		return t, nil
	}
	provider := metric.NewMeterProvider(options...)
	t.stops = append(t.stops, provider.Shutdown)
	t.Metrics, err = NewMetrics(provider.Meter(scope))
	return t, err
}

// flushWithin bounds how long the last spans and metrics may take.
const flushWithin = 2 * time.Second

// Stop sends what is left.
func (t *Telemetry) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushWithin)
	defer cancel()
	var errs []error
	for _, stop := range t.stops {
		errs = append(errs, stop(ctx))
	}
	t.stops = nil
	return errors.Join(errs...)
}
