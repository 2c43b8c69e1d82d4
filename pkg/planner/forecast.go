package planner

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/cost"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/simulate"
)

// WhatIf changes a plan before it is simulated. Limits are named phase.max_processors, phase.max_dates,
// limiter.rate (calls per second), limiter.burst or limiter.in_flight; they may raise what the pipeline allows.
type WhatIf struct {
	Limits   map[string]float64
	Order    backfill.Order
	FailRate *float64
	Throttle *float64
	Seeds    int // 0: ten, fewer for what is very large
	Seed     uint64
}

// Forecast is a plan with what a simulation says of it.
type Forecast struct {
	*Plan
	simulate.Prediction
	World   simulate.World
	ToDo    int // runs
	Skipped int
	Open    int // dates with something to do
	Cost    []cost.Part
	Notes   []string // what the forecast does not know
}

// DefaultFailRate is the share of attempts that a forecast takes to fail.
const DefaultFailRate = 0.01

// guess is taken for a processor of which nothing is known.
var guess = simulate.FromPercentiles(30, 60, "guess")

// CloudLatency is a guess at what lies between the end of a run and the next call where events travel over
// Pub/Sub: five hops of about 100 ms.
const CloudLatency = 500 * time.Millisecond

// enough is how many runs history must know for its percentiles to be used.
const enough = 5

// maxSimulated bounds the runs that a forecast simulates in all, as far as one seed allows.
const maxSimulated = 500_000

// Forecast plans a request and simulates it. Nothing is written.
func (p *Planner) Forecast(ctx context.Context, r backfill.Request, w WhatIf, now time.Time) (*Forecast, error) {
	if w.Order != "" {
		r.Order = w.Order
	}
	plan, err := p.Plan(ctx, r, now)
	if err != nil {
		return nil, err
	}
	return p.Foresee(ctx, plan, w)
}

// Foresee simulates a plan. Data are taken to be as the checks want them.
func (p *Planner) Foresee(ctx context.Context, plan *Plan, w WhatIf) (*Forecast, error) {
	changed, err := w.apply(plan.Pipeline)
	if err != nil {
		return nil, err
	}
	changed.Checks = nil
	f := &Forecast{Plan: plan}
	if f.World, err = p.world(ctx, changed, plan.Backfill.Calendar, w); err != nil {
		return nil, err
	}
	f.count()
	seeds := w.Seeds
	if seeds <= 0 {
		seeds = min(10, max(1, maxSimulated/max(1, f.ToDo)))
	}
	f.Prediction = simulate.Predict(simulate.Setting{
		Backfill: plan.Backfill, Pipeline: changed, Records: plan.Records, World: f.World, Trace: f.ToDo <= 2*maxSimulated,
	}, w.Seed, seeds)
	f.price(changed)
	return f, nil
}

// count finds what there is to do.
func (f *Forecast) count() {
	scope := backfill.NewScope(f.Backfill, f.Pipeline)
	for i := range f.Records {
		rec := &f.Records[i]
		open := 0
		for _, ph := range scope.Phases(rec.Season) {
			t := scope.Tally(rec, ph)
			open += t.Total - t.Done()
			f.Skipped += t.Done()
		}
		f.ToDo += open
		if open > 0 {
			f.Open++
		}
	}
}

// world is what is known of the processors: what history recorded, else what the pipeline expects, else a guess.
func (p *Planner) world(ctx context.Context, pl *backfill.Pipeline, cal backfill.Calendar, w WhatIf) (simulate.World, error) {
	out := simulate.World{Durations: map[backfill.Ref]simulate.Spread{}, FailRate: DefaultFailRate, Latency: p.Latency}
	if w.FailRate != nil {
		out.FailRate = *w.FailRate
	}
	if w.Throttle != nil {
		out.Throttle = *w.Throttle
	}
	for i := range pl.Phases {
		ph := &pl.Phases[i]
		for j := range ph.Processors {
			spread, e := guess, ph.Processors[j].Expect
			if e.P50 > 0 {
				spread = simulate.FromPercentiles(e.P50.Seconds(), e.P90.Seconds(), "expect")
			}
			out.Durations[backfill.Ref{Phase: ph.ID, Processor: ph.Processors[j].Name}] = spread
		}
	}
	if pl.History == nil || pl.History.Duration == "" {
		return out, nil
	}
	last := cal.At(cal.Len() - 1).Date
	known, err := p.Warehouse.Durations(ctx, *pl.History, min(cal.At(0).Date, last-recent), last)
	if fault.Is(err, fault.NotFound) {
		return out, fault.List{fmt.Sprintf("the history cannot be read: %v", err)}.Err()
	}
	for _, d := range known {
		ref := backfill.Ref{Phase: d.Phase, Processor: d.Processor}
		if _, ours := out.Durations[ref]; ours && d.Runs >= enough {
			out.Durations[ref] = simulate.FromPercentiles(d.P50, d.P90, "history")
		}
	}
	return out, err
}

// recent is how many days of history say how long processors take.
const recent = 400

// Guessed lists the processors whose durations are a guess.
func (f *Forecast) Guessed() []backfill.Ref {
	var out []backfill.Ref
	for ref, s := range f.World.Durations {
		if s.Source == guess.Source {
			out = append(out, ref)
		}
	}
	slices.SortFunc(out, func(a, b backfill.Ref) int {
		return cmp.Or(cmp.Compare(a.Phase, b.Phase), cmp.Compare(a.Processor, b.Processor))
	})
	return out
}

// Planned is the forecast as a backfill keeps it.
func (f *Forecast) Planned() backfill.Planned {
	out := backfill.Planned{P50: f.P50, P90: f.P90, USD: cost.Total(f.Cost), Runs: f.ToDo, EachUSD: map[string]float64{}}
	for i, ph := range f.Typical.Phases {
		if ph.Runs == 0 {
			continue
		}
		u := cost.Usage{Runs: ph.Runs, Calls: ph.Calls, ProcessorSeconds: ph.Busy.Seconds()}
		processors := f.Pipeline.Phases[i].Processors
		for j := range processors {
			u.BytesBilled += float64(ph.Runs) / float64(len(processors)) * float64(processors[j].Expect.Bytes)
		}
		out.EachUSD[ph.ID] = cost.Total(cost.Estimate(u)) / float64(ph.Runs)
	}
	return out
}

// Slow lists the processors of which more than half of the attempts would take longer than they may, as far as their
// durations are known.
func (f *Forecast) Slow() []string {
	var out []string
	for i := range f.Pipeline.Phases {
		ph := &f.Pipeline.Phases[i]
		for j := range ph.Processors {
			proc := &ph.Processors[j]
			d := f.World.Durations[backfill.Ref{Phase: ph.ID, Processor: proc.Name}]
			if d.Source != guess.Source && d.Median > proc.Timeout.Seconds() {
				out = append(out, fmt.Sprintf("%s/%s takes %.0fs in half of the cases and may take %s", ph.ID, proc.Name, d.Median, proc.Timeout))
			}
		}
	}
	return out
}

// price adds up what the simulated run uses.
func (f *Forecast) price(pl *backfill.Pipeline) {
	u := cost.Usage{Runs: f.Typical.Attempts}
	silent := 0
	for i, ph := range f.Typical.Phases {
		u.ProcessorSeconds += ph.Busy.Seconds()
		u.Calls += ph.Calls
		if ph.Runs == 0 {
			continue
		}
		each := float64(ph.Runs) / float64(len(pl.Phases[i].Processors))
		for j := range pl.Phases[i].Processors {
			bytes := pl.Phases[i].Processors[j].Expect.Bytes
			u.BytesBilled += each * float64(bytes)
			if bytes == 0 {
				silent++
			}
		}
	}
	f.Cost = cost.Estimate(u)
	if silent > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("%d processors do not say in expect.bytes what BigQuery bills for a run: it is taken to be nothing", silent))
	}
	if n := len(f.Guessed()); n > 0 {
		f.Notes = append(f.Notes, fmt.Sprintf("the durations of %d processors are a guess (%.0fs, nine in ten within %.0fs): give the pipeline expect, or a history with durations", n, guess.Median, guess.P90()))
	}
	f.Notes = append(f.Notes, fmt.Sprintf("%g%% of attempts are taken to fail and to be made again", 100*f.World.FailRate))
}

// apply makes a pipeline with the limits changed.
func (w *WhatIf) apply(pl *backfill.Pipeline) (*backfill.Pipeline, error) {
	out := *pl
	out.Phases = slices.Clone(pl.Phases)
	out.Limiters = maps.Clone(pl.Limiters)
	var faults fault.List
	for _, name := range slices.Sorted(maps.Keys(w.Limits)) {
		v := w.Limits[name]
		owner, field, _ := strings.Cut(name, ".")
		if v <= 0 || (field != "rate" && v != float64(int(v))) {
			faults.Addf("limit %s=%v: it must be above zero, and whole unless it is a rate", name, v)
			continue
		}
		if !setLimit(&out, owner, field, v) {
			faults.Addf("unknown limit %q: use PHASE.max_processors, PHASE.max_dates, LIMITER.rate, LIMITER.burst or LIMITER.in_flight, with a phase or limiter of pipeline %s", name, pl.Name)
		}
	}
	if w.Order != "" && !slices.Contains([]backfill.Order{backfill.OrderOverlap, backfill.OrderPhaseByPhase, backfill.OrderDateByDate}, w.Order) {
		faults.Addf("order %q is none of overlap, phase_by_phase and date_by_date", w.Order)
	}
	for name, rate := range map[string]*float64{"fail": w.FailRate, "throttle": w.Throttle} {
		if rate != nil && !(*rate >= 0 && *rate <= 0.9) {
			faults.Addf("%s rate %v: it is a share of attempts between 0 and 0.9", name, *rate)
		}
	}
	if w.Seeds < 0 || w.Seeds > 1000 {
		faults.Addf("seeds is %d: use 1 to 1000", w.Seeds)
	}
	return &out, faults.Err()
}

// setLimit changes one limit of a pipeline that is ours to change.
func setLimit(pl *backfill.Pipeline, owner, field string, v float64) bool {
	if l, ok := pl.Limiters[owner]; ok {
		switch field {
		case "rate":
			l.Rate = v
		case "burst":
			l.Burst = int(v)
		case "in_flight":
			l.InFlight = int(v)
		default:
			return false
		}
		pl.Limiters[owner] = l
		return true
	}
	ph, ok := pl.Phase(owner)
	switch {
	case ok && field == "max_processors":
		ph.MaxProcessors = int(v)
	case ok && field == "max_dates":
		ph.MaxDates = int(v)
	default:
		return false
	}
	return true
}
