package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	pb "sluice.dev/proto/gen/sluice/v1"
)

func TestNamesAreWhatPrometheusCallsThem(t *testing.T) {
	t.Parallel()
	x, err := Start(t.Context(), "test", true)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Stop(t.Context())
	for _, i := range Instruments() {
		switch i.Kind {
		case "counter":
			x.Metrics.Count(t.Context(), i, 1, "pipeline", "p")
		case "histogram":
			x.Metrics.Took(t.Context(), i, time.Second, "pipeline", "p")
		}
	}
	stop, err := x.Metrics.Observe(func(report func(Instrument, float64, ...string)) {
		for _, i := range Instruments() {
			if i.Kind == "gauge" {
				report(i, 1, "pipeline", "p")
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	scrape := func() string {
		w := httptest.NewRecorder()
		x.Scrape.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Body.String()
	}
	text := scrape()
	for _, i := range Instruments() {
		if !strings.Contains(text, "\n# TYPE "+i.Prometheus+" "+i.Kind+"\n") && !strings.HasPrefix(text, "# TYPE "+i.Prometheus) {
			t.Errorf("no %s %s in:\n%s", i.Kind, i.Prometheus, text)
		}
	}
	stop()
	if strings.Contains(scrape(), Idle.Prometheus+"{") {
		t.Error("a gauge that nobody reports is still there")
	}
}

func TestOffDoesNothing(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	x, err := Start(t.Context(), "test", false)
	if err != nil || x.Metrics != nil || x.Scrape != nil || len(x.stops) != 0 {
		t.Errorf("%+v, %v", x, err)
	}
	x.Metrics.Count(t.Context(), Calls, 1)
	x.Metrics.Took(t.Context(), CallDuration, time.Second)
	if stop, err := x.Metrics.Observe(nil); err != nil {
		t.Error(err)
	} else {
		stop()
	}
	if err := x.Handler("s", "t", func(context.Context, *event.Event) error { return nil })(t.Context(), &event.Event{}); err != nil {
		t.Error(err)
	}
}

func TestTelemetryIsSentWhereTheStandardVariablesSay(t *testing.T) {
	var traces, metrics atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/v1/traces":
			traces.Add(1)
		case "/v1/metrics":
			metrics.Add(1)
		}
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	x, err := Start(t.Context(), "test", false)
	if err != nil {
		t.Fatal(err)
	}
	_ = x.Handler("s", "t", func(context.Context, *event.Event) error { return nil })(t.Context(), &event.Event{})
	if err := x.Stop(t.Context()); err != nil || traces.Load() == 0 || metrics.Load() == 0 {
		t.Errorf("%d requests with traces, %d with metrics, %v", traces.Load(), metrics.Load(), err)
	}
	if err := x.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// sent keeps what is published.
type sent struct{ events []*event.Event }

func (s *sent) Publish(_ context.Context, _ string, events ...*event.Event) error {
	s.events = append(s.events, events...)
	return nil
}

func withTraces(t *testing.T) (*Telemetry, *tracetest.InMemoryExporter) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	t.Cleanup(func() { _ = provider.Shutdown(context.Background()) })
	return &Telemetry{Tracer: provider.Tracer(scope), tracing: true}, exporter
}

// TestADateIsOneTrace follows a date from a trigger over a completion to the next phase, through three services that
// only have the messages in common.
func TestADateIsOneTrace(t *testing.T) {
	t.Parallel()
	x, exporter := withTraces(t)
	out := &sent{}
	pub := x.Publisher(out)
	handle := func(e *event.Event, next *event.Event) {
		t.Helper()
		err := x.Handler("service", "topic", func(ctx context.Context, _ *event.Event) error { return pub.Publish(ctx, "next", next) })(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
	}
	trigger := event.New(event.TypeTriggered, "gate", "", time.Now(), &pb.PhaseTriggered{BackfillId: "b", Date: "2024-01-01"})
	done := event.New(event.TypeCompleted, "p", "", time.Now(), &pb.ProcessorCompleted{BackfillId: "b", Date: "2024-01-01"})
	news := event.New(event.TypePhaseDone, "tracker", "", time.Now(), &pb.PhaseProgressed{BackfillId: "b", Date: "2024-01-01"})
	handle(trigger, done)
	handle(out.events[0], news)
	handle(out.events[1], trigger)
	spans := exporter.GetSpans()
	if len(spans) != 3 {
		t.Fatalf("%d spans", len(spans))
	}
	for i, s := range spans {
		if s.SpanContext.TraceID() != spans[0].SpanContext.TraceID() || s.SpanContext.TraceID().String() != event.ID("b", "2024-01-01") {
			t.Errorf("span %d is in trace %s", i, s.SpanContext.TraceID())
		}
		if len(s.Links) != 1 || s.Links[0].SpanContext.TraceID().String() != event.ID("b", "") {
			t.Errorf("span %d is not linked to the backfill's trace: %v", i, s.Links)
		}
		if i > 0 && s.Parent.SpanID() != spans[i-1].SpanContext.SpanID() {
			t.Errorf("span %d is no child of the one before", i)
		}
	}
	exporter.Reset()
	handle(event.New(event.TypeRequested, "cli", "", time.Now(), &pb.BackfillRequested{BackfillId: "b"}), trigger)
	if s := exporter.GetSpans()[0]; s.SpanContext.TraceID().String() != event.ID("b", "") {
		t.Errorf("the request is in trace %s", s.SpanContext.TraceID())
	}
	if done.Trace != "" {
		t.Error("an event that was published has been changed")
	}
	exporter.Reset()
	other := event.New(event.TypePhaseDone, "tracker", "", time.Now(), &pb.PhaseProgressed{BackfillId: "b", Date: "2024-01-02"})
	handle(other, trigger)
	if s := exporter.GetSpans()[0]; s.SpanContext.TraceID().String() == event.ID("b", "2024-01-01") {
		t.Error("another date is in the same trace")
	}
}

func TestMessagesAreCountedByWhatCameOfThem(t *testing.T) {
	t.Parallel()
	x, err := Start(t.Context(), "test", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range []error{nil, errors.New("again"), fault.New(fault.Invalid, "never")} {
		_ = x.Handler("tracker", "topic", func(context.Context, *event.Event) error { return result })(t.Context(), &event.Event{})
	}
	w := httptest.NewRecorder()
	x.Scrape.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, result := range []string{"ok", "error", "dead"} {
		if want := `sluice_messages_total{result="` + result + `",service="tracker",topic="topic"} 1`; !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in:\n%s", want, w.Body.String())
		}
	}
}

func TestLogsAreInCloudLoggingsShape(t *testing.T) {
	t.Parallel()
	x, _ := withTraces(t)
	var buf bytes.Buffer
	log := Logger(&buf, slog.LevelInfo, "proj").With("service", "s")
	ctx, span := x.Tracer.Start(t.Context(), "work")
	log.WarnContext(ctx, "something odd", "backfill_id", "b")
	log.DebugContext(ctx, "nobody asked")
	span.End()
	var got map[string]any
	if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, buf.String())
	}
	for k, want := range map[string]any{
		"severity": "WARNING", "message": "something odd", "service": "s", "backfill_id": "b",
		"logging.googleapis.com/trace": "projects/proj/traces/" + span.SpanContext().TraceID().String(), "logging.googleapis.com/spanId": span.SpanContext().SpanID().String(),
		"logging.googleapis.com/trace_sampled": true,
	} {
		if got[k] != want {
			t.Errorf("%s is %v, not %v", k, got[k], want)
		}
	}
	if at, _ := got["time"].(string); at == "" {
		t.Errorf("no time in %v", got)
	}
}

// BenchmarkHandler measures what telling of a message costs.
func BenchmarkHandler(b *testing.B) {
	e := event.New(event.TypePhaseDone, "tracker", "", time.Now(), &pb.PhaseProgressed{BackfillId: "b", Date: "2024-01-02"})
	h := func(context.Context, *event.Event) error { return nil }
	exporter := tracetest.NewNoopExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
	on, err := Start(b.Context(), "bench", true)
	if err != nil {
		b.Fatal(err)
	}
	all := *on
	all.Tracer, all.tracing = provider.Tracer(scope), true
	for name, x := range map[string]*Telemetry{"off": Off(), "metrics": on, "metrics and traces": &all} {
		handle := x.Handler("s", "t", h)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_ = handle(b.Context(), e)
			}
		})
	}
}
