package dispatch

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/telemetry"
)

func (k kind) String() string {
	return [...]string{"succeeded", "accepted", "throttled", "failed", "interrupted"}[k]
}

// span tells of a call, in the trace of its date; what is returned ends it. The processor gets it as its parent.
func (d *Dispatcher) span(ctx context.Context, s *backfill.Scope, j backfill.Job) (context.Context, func(answer)) {
	ctx, span := d.Telemetry.Tracer.Start(telemetry.From(ctx, event.Traceparent(s.ID, j.Date.String(), j.Phase)), "call "+j.Phase, //nolint:spancheck // what is returned ends it
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
			attribute.String("backfill_id", s.ID), attribute.String("date", j.Date.String()), attribute.String("phase", j.Phase),
			attribute.StringSlice("processors", j.Processors), attribute.Int("attempt", j.Attempts[0])))
	return ctx, func(a answer) { //nolint:spancheck // the same
		span.SetAttributes(attribute.String("answer", a.kind.String()))
		if a.kind == failed || a.kind == throttled {
			span.SetStatus(codes.Error, a.message)
		}
		span.End()
	}
}

// gauges reports what this instance drives, and what nobody does.
func (d *Dispatcher) gauges(report func(i telemetry.Instrument, v float64, pairs ...string)) {
	d.mu.Lock()
	unowned := d.unowned
	d.mu.Unlock()
	report(telemetry.Unowned, float64(unowned))
	for _, dr := range d.drives() {
		d.gaugesOf(dr, report)
	}
}

func (d *Dispatcher) gaugesOf(dr *drive, report func(i telemetry.Instrument, v float64, pairs ...string)) {
	now := d.Now()
	id, pipeline := dr.scope.ID, dr.scope.Pipeline.Name
	dr.mu.Lock()
	snap := dr.progress.snapshot(now)
	heard, open, active, budget := dr.heard, dr.progress.open(), dr.state == backfill.StateActive, dr.budget
	dr.mu.Unlock()
	var patience time.Duration
	for _, ph := range snap.Phases {
		for state, n := range map[string]int{
			"succeeded": ph.Succeeded, "skipped": ph.Skipped, "waived": ph.Waived, "in_flight": ph.InFlight, "retrying": ph.Retrying, "exhausted": ph.Exhausted, "pending": ph.Pending,
		} {
			report(telemetry.Runs, float64(n), "backfill_id", id, "pipeline", pipeline, "phase", ph.ID, "state", state)
		}
		d.mu.Lock()
		_, window := d.sched.Load(backfill.Lane{Backfill: id, Phase: ph.ID})
		d.mu.Unlock()
		if window > 0 && window < 1<<20 { // a phase without a limit has no window to show
			report(telemetry.Window, float64(window), "backfill_id", id, "pipeline", pipeline, "phase", ph.ID)
		}
		phase, _ := dr.scope.Pipeline.Phase(ph.ID)
		for i := range phase.Processors {
			proc := &phase.Processors[i]
			patience = max(patience, phase.Allowance(proc, ph.InFlight)+proc.Backoff.Max)
		}
	}
	idle := time.Duration(0)
	if active && open > 0 {
		idle = now.Sub(heard)
	}
	report(telemetry.Idle, idle.Seconds(), "backfill_id", id, "pipeline", pipeline)
	report(telemetry.Patience, patience.Seconds(), "backfill_id", id, "pipeline", pipeline)
	report(telemetry.Spend, snap.SpendUSD, "backfill_id", id, "pipeline", pipeline)
	report(telemetry.Forecast, snap.ForecastUSD, "backfill_id", id, "pipeline", pipeline)
	if budget > 0 {
		report(telemetry.Budget, budget, "backfill_id", id, "pipeline", pipeline)
	}
}
