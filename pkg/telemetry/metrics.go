// Package telemetry is what services tell of themselves: metrics and traces through OpenTelemetry, and logs in the shape
// that Cloud Logging reads. Without a configured exporter nothing is sent and little is done.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Instrument describes a metric. Name and unit are OpenTelemetry's; what Prometheus and PromQL call it follows from
// them by its naming rules.
type Instrument struct {
	Name       string
	Unit       string
	Kind       string // counter, histogram or gauge
	Help       string
	Labels     string
	Prometheus string
}

// The metrics, in one table: code, dashboard, alerts and docs/operations.md use these names, and a test compares them.
var (
	Completions     = Instrument{"sluice.completions", "{completion}", "counter", "outcomes recorded", "pipeline, phase, status", "sluice_completions_total"}
	Exhausted       = Instrument{"sluice.exhausted", "{run}", "counter", "runs that used up their attempts", "pipeline, phase, processor", "sluice_exhausted_total"}
	Unmatched       = Instrument{"sluice.unmatched", "{completion}", "counter", "completions that match nothing; pipelines that are not ours are `unknown`", "pipeline", "sluice_unmatched_total"}
	Calls           = Instrument{"sluice.calls", "{call}", "counter", "calls of processors by how they were answered", "pipeline, phase, answer", "sluice_calls_total"}
	CallDuration    = Instrument{"sluice.call.duration", "s", "histogram", "time until a call was answered", "pipeline, phase", "sluice_call_duration_seconds"}
	Messages        = Instrument{"sluice.messages", "{message}", "counter", "messages handled by what came of it: ok, error or dead", "service, topic, result", "sluice_messages_total"}
	MessageDuration = Instrument{"sluice.message.duration", "s", "histogram", "time that handling a message took", "service, topic", "sluice_message_duration_seconds"}
	GateLatency     = Instrument{"sluice.gate.latency", "s", "histogram", "time from the news of a completed phase to the trigger of the next", "pipeline, phase", "sluice_gate_latency_seconds"}
	CheckFailures   = Instrument{"sluice.check.failures", "{date}", "counter", "dates that fail a blocking check", "pipeline, check", "sluice_check_failures_total"}
	LeasesLost      = Instrument{"sluice.leases.lost", "{lease}", "counter", "leases that another instance took over or that lapsed", "", "sluice_leases_lost_total"}
	Runs            = Instrument{"sluice.backfill.runs", "{run}", "gauge", "runs of a backfill that is driven, by state", "backfill_id, pipeline, phase, state", "sluice_backfill_runs"}
	Window          = Instrument{"sluice.backfill.window", "{run}", "gauge", "how many runs of a phase may be in flight", "backfill_id, pipeline, phase", "sluice_backfill_window"}
	Idle            = Instrument{"sluice.backfill.idle", "s", "gauge", "time since the last completion while something is in flight", "backfill_id, pipeline", "sluice_backfill_idle_seconds"}
	Patience        = Instrument{"sluice.backfill.patience", "s", "gauge", "how long the slowest attempt in flight may take", "backfill_id, pipeline", "sluice_backfill_patience_seconds"}
	Spend           = Instrument{"sluice.backfill.spend", "{USD}", "gauge", "spend of a backfill in USD", "backfill_id, pipeline", "sluice_backfill_spend"}
	Forecast        = Instrument{"sluice.backfill.forecast", "{USD}", "gauge", "spend that is expected at the end in USD", "backfill_id, pipeline", "sluice_backfill_forecast"}
	Budget          = Instrument{"sluice.backfill.budget", "{USD}", "gauge", "budget_usd, where there is one", "backfill_id, pipeline", "sluice_backfill_budget"}
	Unowned         = Instrument{"sluice.backfills.unowned", "{backfill}", "gauge", "running backfills that no dispatcher drives", "", "sluice_backfills_unowned"}
)

// Instruments lists them all.
func Instruments() []Instrument {
	return []Instrument{
		Completions, Exhausted, Unmatched, Calls, CallDuration, Messages, MessageDuration, GateLatency, CheckFailures, LeasesLost, Runs, Window, Idle, Patience,
		Spend, Forecast, Budget, Unowned,
	}
}

// Metrics records. A nil one does nothing.
type Metrics struct {
	meter      metric.Meter
	counters   map[string]metric.Int64Counter
	histograms map[string]metric.Float64Histogram
	gauges     map[string]metric.Float64ObservableGauge
	sets       sync.Map // of counters' and histograms' labels, by their names and values
}

// buckets are upper bounds in seconds, from a fast handler to a slow scrape.
var buckets = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}

// NewMetrics makes the instruments.
func NewMetrics(meter metric.Meter) (*Metrics, error) {
	m := &Metrics{
		meter: meter, counters: map[string]metric.Int64Counter{}, histograms: map[string]metric.Float64Histogram{}, gauges: map[string]metric.Float64ObservableGauge{},
	}
	var errs []error
	for _, i := range Instruments() {
		var err error
		switch i.Kind {
		case "counter":
			m.counters[i.Name], err = meter.Int64Counter(i.Name, metric.WithUnit(i.Unit), metric.WithDescription(i.Help))
		case "histogram":
			m.histograms[i.Name], err = meter.Float64Histogram(i.Name, metric.WithUnit(i.Unit), metric.WithDescription(i.Help), metric.WithExplicitBucketBoundaries(buckets...))
		default:
			m.gauges[i.Name], err = meter.Float64ObservableGauge(i.Name, metric.WithUnit(i.Unit), metric.WithDescription(i.Help))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("metric %s: %w", i.Name, err))
		}
	}
	return m, errors.Join(errs...)
}

// attributes pairs names and values. A set of labels is made once; gauges name backfills, so theirs are not kept.
func (m *Metrics) attributes(pairs []string) metric.MeasurementOption {
	key := strings.Join(pairs, "\x00")
	if known, ok := m.sets.Load(key); ok {
		return known.(metric.MeasurementOption)
	}
	option := labels(pairs)
	m.sets.Store(key, option)
	return option
}

func labels(pairs []string) metric.MeasurementOption {
	list := make([]attribute.KeyValue, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		list = append(list, attribute.String(pairs[i], pairs[i+1]))
	}
	return metric.WithAttributeSet(attribute.NewSet(list...))
}

// Count adds n to a counter, with labels as pairs of names and values.
func (m *Metrics) Count(ctx context.Context, i Instrument, n int, pairs ...string) {
	if m != nil {
		m.counters[i.Name].Add(ctx, int64(n), m.attributes(pairs))
	}
}

// Took records a duration in a histogram.
func (m *Metrics) Took(ctx context.Context, i Instrument, d time.Duration, pairs ...string) {
	if m != nil {
		m.histograms[i.Name].Record(ctx, d.Seconds(), m.attributes(pairs))
	}
}

// Observe has gauges read whenever metrics are collected, until the returned function is called. A label set that is
// not reported any more is gone.
func (m *Metrics) Observe(read func(report func(i Instrument, v float64, pairs ...string))) (stop func(), err error) {
	if m == nil {
		return func() {}, nil
	}
	all := make([]metric.Observable, 0, len(m.gauges))
	for _, g := range m.gauges {
		all = append(all, g)
	}
	r, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		read(func(i Instrument, v float64, pairs ...string) {
			o.ObserveFloat64(m.gauges[i.Name], v, labels(pairs))
		})
		return nil
	}, all...)
	if err != nil {
		return nil, fmt.Errorf("observing gauges: %w", err)
	}
	return func() { _ = r.Unregister() }, nil
}
