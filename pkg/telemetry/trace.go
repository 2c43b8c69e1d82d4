package telemetry

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
)

var wire = propagation.TraceContext{}

// From is a context whose parent is what a traceparent says.
func From(ctx context.Context, traceparent string) context.Context {
	return wire.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}

// Traceparent is the span of a context as it travels; empty without one.
func Traceparent(ctx context.Context) string {
	c := propagation.MapCarrier{}
	wire.Inject(ctx, c)
	return c["traceparent"]
}

// about is what messages say of the date that they are about.
type about interface {
	GetBackfillId() string
	GetDate() string
}

// parent is where an event belongs: to the trace that it carries, else to the one of its date, else to its backfill's.
// Everything about one date of a backfill is one trace, from the request's plan to the last processor.
func parent(e *event.Event) (string, []attribute.KeyValue) {
	backfill, date := "", ""
	if m, ok := e.Data.(about); ok {
		backfill, date = m.GetBackfillId(), m.GetDate()
	} else if m, ok := e.Data.(interface{ GetBackfillId() string }); ok {
		backfill = m.GetBackfillId()
	}
	attrs := []attribute.KeyValue{attribute.String("backfill_id", backfill), attribute.String("date", date)}
	if e.Trace != "" || backfill == "" {
		return e.Trace, attrs
	}
	return event.Traceparent(backfill, date, e.ID), attrs
}

// whole links a span to the trace of its backfill, in which the request is handled unless it brought one of its own.
func whole(e *event.Event) trace.SpanStartOption {
	m, ok := e.Data.(interface{ GetBackfillId() string })
	if !ok || m.GetBackfillId() == "" {
		return trace.WithLinks()
	}
	root := From(context.Background(), event.Traceparent(m.GetBackfillId(), "", "backfill"))
	return trace.WithLinks(trace.LinkFromContext(root))
}

// Handler tells of every message that a handler handles.
func (t *Telemetry) Handler(service, topic string, h bus.Handler) bus.Handler {
	return func(ctx context.Context, e *event.Event) error {
		began := time.Now()
		var err error
		if t.tracing {
			err = t.traced(ctx, topic, e, h)
		} else {
			err = h(ctx, e)
		}
		result := "ok"
		switch {
		case fault.Is(err, fault.Invalid):
			result = "dead"
		case err != nil:
			result = "error"
		}
		t.Metrics.Count(ctx, Messages, 1, "service", service, "topic", topic, "result", result)
		t.Metrics.Took(ctx, MessageDuration, time.Since(began), "service", service, "topic", topic)
		return err
	}
}

// traced handles a message in a span of its own.
func (t *Telemetry) traced(ctx context.Context, topic string, e *event.Event, h bus.Handler) error {
	traceparent, attrs := parent(e)
	ctx, span := t.Tracer.Start(From(ctx, traceparent), topic+" process", whole(e), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		append(attrs, attribute.String("messaging.system", "gcp_pubsub"), attribute.String("messaging.destination.name", topic), attribute.String("messaging.message.id", e.ID))...))
	defer span.End()
	err := h(ctx, e)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// publisher has events carry the trace in which they were published.
type publisher struct {
	bus.Publisher
}

// Publisher has what is published carry the trace of the context.
func (t *Telemetry) Publisher(p bus.Publisher) bus.Publisher { return publisher{p} }

// Publish implements bus.Publisher.
func (p publisher) Publish(ctx context.Context, topic string, events ...*event.Event) error {
	if trace.SpanContextFromContext(ctx).IsSampled() {
		parent := Traceparent(ctx)
		events = slices.Clone(events)
		for i, e := range events {
			if e.Trace == "" && e.Type != event.TypeJournal {
				traced := *e
				traced.Trace = parent
				events[i] = &traced
			}
		}
	}
	return p.Publisher.Publish(ctx, topic, events...)
}
