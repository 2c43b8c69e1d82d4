package planner

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/pkg/warehouse"
)

// Planner knows the pipelines and the tables.
type Planner struct {
	Pipelines map[string]*backfill.Pipeline
	Warehouse warehouse.Warehouse
	// Latency is what lies between the end of a run and the next call, for forecasts.
	Latency time.Duration
}

// Plan is what a request amounts to.
type Plan struct {
	Backfill *backfill.Backfill
	Pipeline *backfill.Pipeline
	Records  []backfill.Record // one per date, with what history says is done
}

// Stage is a part of planning that fails for reasons of its own.
type Stage struct {
	Name string // request, calendar, history or predecessors
	Err  error
}

// Plan resolves a request. An Invalid error lists every fault; any other may go away by itself.
func (p *Planner) Plan(ctx context.Context, r backfill.Request, now time.Time) (*Plan, error) {
	plan, stages := p.Stages(ctx, r, now)
	var faults fault.List
	for _, s := range stages {
		if s.Err != nil && !fault.Is(s.Err, fault.Invalid) {
			return nil, s.Err
		}
		if s.Err != nil {
			faults = append(faults, fault.Faults(s.Err)...)
		}
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return plan, nil
}

// Stages is Plan with what came of each stage, those that could not be tried left out. The plan is nil unless all
// of them went well.
func (p *Planner) Stages(ctx context.Context, r backfill.Request, now time.Time) (*Plan, []Stage) {
	pl, err := p.pipeline(r)
	stages := []Stage{{"request", err}}
	if pl == nil {
		return nil, stages
	}
	calendar, err := p.Calendar(ctx, pl, now)
	var dates backfill.Calendar
	if err == nil {
		dates, err = choose(pl, calendar, r)
	}
	if stages = append(stages, Stage{"calendar", err}); err != nil {
		return nil, stages
	}
	version, err := pipeline.Version(pl)
	if err != nil {
		return nil, append(stages, Stage{"request", err})
	}
	b := &backfill.Backfill{
		ID: r.ID, Request: r, Version: version, State: backfill.StatePlanning, CreatedAt: now,
		Dates: dates, Calendar: reach(pl, calendar, dates), Limits: r.Limits, Budget: backfill.Budget{USD: r.BudgetUSD},
	}
	scope := backfill.NewScope(b, pl)
	done, err := p.done(ctx, pl, b.Calendar)
	if stages = append(stages, Stage{"history", err}); err != nil {
		return nil, stages
	}
	stages = append(stages, Stage{"predecessors", missing(scope, r, done)})
	if slices.ContainsFunc(stages, func(s Stage) bool { return s.Err != nil }) {
		return nil, stages
	}
	plan := &Plan{Backfill: b, Pipeline: pl, Records: make([]backfill.Record, dates.Len())}
	for i, part := range dates.All() {
		plan.Records[i] = record(scope, part, r.Force, done, now)
	}
	return plan, stages
}

func (p *Planner) pipeline(r backfill.Request) (*backfill.Pipeline, error) {
	var faults fault.List
	pl, ok := p.Pipelines[r.Pipeline]
	if !ok {
		names := slices.Sorted(maps.Keys(p.Pipelines))
		faults.Addf("unknown pipeline %q: known here are %s", r.Pipeline, strings.Join(names, ", "))
		return nil, faults.Err()
	}
	ids := make([]string, len(pl.Phases))
	for i := range pl.Phases {
		ids[i] = pl.Phases[i].ID
	}
	for _, ph := range r.Phases {
		if !slices.Contains(ids, ph) {
			faults.Addf("unknown phase %q: pipeline %s has %s", ph, pl.Name, strings.Join(ids, ", "))
		}
	}
	faults = append(faults, limitFaults(pl, r.Limits)...)
	return pl, faults.Err()
}

// CheckLimits lists the limits that a pipeline does not allow: they may only be lowered.
func CheckLimits(pl *backfill.Pipeline, limits map[string]backfill.Limits) error {
	return limitFaults(pl, limits).Err()
}

func limitFaults(pl *backfill.Pipeline, limits map[string]backfill.Limits) fault.List {
	var faults fault.List
	ids := make([]string, len(pl.Phases))
	for i := range pl.Phases {
		ids[i] = pl.Phases[i].ID
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		ph, ok := pl.Phase(name)
		if !ok {
			faults.Addf("limits names the unknown phase %q: pipeline %s has %s", name, pl.Name, strings.Join(ids, ", "))
			continue
		}
		if l := limits[name]; ph.MaxDates > 0 && l.MaxDates > ph.MaxDates {
			faults.Addf("limits.%s.max_dates is %d, but may only lower the pipeline's %d", name, l.MaxDates, ph.MaxDates)
		}
		if l := limits[name]; ph.MaxProcessors > 0 && l.MaxProcessors > ph.MaxProcessors {
			faults.Addf("limits.%s.max_processors is %d, but may only lower the pipeline's %d", name, l.MaxProcessors, ph.MaxProcessors)
		}
	}
	return faults
}

// Calendar is a pipeline's whole calendar.
func (p *Planner) Calendar(ctx context.Context, pl *backfill.Pipeline, now time.Time) (backfill.Calendar, error) {
	switch src := pl.Partition; {
	case src.Dates != nil:
		return *src.Dates, nil
	case src.DailyFrom != nil:
		var parts []backfill.Partition
		for d := *src.DailyFrom; d < backfill.DateOf(now); d++ {
			parts = append(parts, backfill.Partition{Date: d})
		}
		return backfill.NewCalendar(parts), nil
	default:
		parts, err := p.Warehouse.Calendar(ctx, *src.Table)
		if fault.Is(err, fault.NotFound) {
			return backfill.Calendar{}, fault.List{fmt.Sprintf("the calendar cannot be read: %v", err)}.Err()
		}
		return backfill.NewCalendar(parts), err
	}
}

// source names the calendar in messages.
func source(pl *backfill.Pipeline) string {
	switch {
	case pl.Partition.Table != nil:
		return pl.Partition.Table.Table
	case pl.Partition.Dates != nil:
		return "the calendar file"
	default:
		return "the daily calendar"
	}
}

// noun is what the pipeline calls its dates: the column game_date makes "game date".
func noun(pl *backfill.Pipeline) string {
	n := strings.ReplaceAll(pl.Partition.Column, "_", " ")
	if !strings.Contains(n, "date") {
		n = "date"
	}
	return n
}

// choose resolves the request's dates. Asking for nothing is a fault, never an empty success.
func choose(pl *backfill.Pipeline, cal backfill.Calendar, r backfill.Request) (backfill.Calendar, error) {
	var parts []backfill.Partition
	var faults fault.List
	what, where := noun(pl), source(pl)
	switch {
	case len(r.Seasons) > 0:
		for _, season := range r.Seasons {
			before := len(parts)
			for _, p := range cal.All() {
				if p.Season == season {
					parts = append(parts, p)
				}
			}
			if len(parts) == before {
				faults.Addf("no %ss found for season %s in %s", what, season, where)
			}
		}
	case r.Start != nil:
		parts = cal.Between(*r.Start, *r.End)
		if len(parts) == 0 {
			faults.Addf("no %ss found from %s to %s in %s", what, r.Start, r.End, where)
		}
	default:
		for _, d := range r.List {
			if i, ok := cal.Index(d); ok {
				parts = append(parts, cal.At(i))
			} else {
				faults.Addf("%s is no %s in %s", d, what, where)
			}
		}
	}
	return backfill.NewCalendar(parts), faults.Err()
}

// reach is the part of the calendar that the backfill's dates and windows touch.
func reach(pl *backfill.Pipeline, cal, dates backfill.Calendar) backfill.Calendar {
	first, _ := cal.Index(dates.At(0).Date)
	from := dates.At(0).Date
	for i := range pl.Phases {
		for j := range pl.Phases[i].Processors {
			for _, w := range pl.Phases[i].Processors[j].Windows {
				from = min(from, dates.At(0).Date-backfill.Date(w.Days), cal.At(max(0, first-w.Games)).Date)
			}
		}
	}
	return backfill.NewCalendar(cal.Between(from, dates.At(dates.Len()-1).Date))
}

// done asks history once, whatever the number of dates.
func (p *Planner) done(ctx context.Context, pl *backfill.Pipeline, cal backfill.Calendar) (map[warehouse.Run]bool, error) {
	done := map[warehouse.Run]bool{}
	if pl.History == nil {
		return done, nil
	}
	err := p.Warehouse.Done(ctx, *pl.History, cal.At(0).Date, cal.At(cal.Len()-1).Date, func(r warehouse.Run) {
		if r.Partial && !acceptsPartial(pl, r) {
			return
		}
		r.Partial = false
		done[r] = true
	})
	if fault.Is(err, fault.NotFound) {
		return nil, fault.List{fmt.Sprintf("the history cannot be read: %v", err)}.Err()
	}
	return done, err
}

// acceptsPartial says whether a processor that has succeeded in part counts as done.
func acceptsPartial(pl *backfill.Pipeline, r warehouse.Run) bool {
	ph, ok := pl.Phase(r.Phase)
	if !ok {
		return false
	}
	proc, ok := ph.Processor(r.Processor)
	return ok && proc.AcceptPartial
}

// gaps are cells that a backfill builds on, does not do itself, and history does not have.
type gaps struct {
	scope    *backfill.Scope
	accepted []backfill.Span
	done     map[warehouse.Run]bool
	found    map[string]map[backfill.Date]bool // by phase
}

// missing lists what the backfill builds on, does not do itself, and history does not have.
func missing(s *backfill.Scope, r backfill.Request, done map[warehouse.Run]bool) error {
	g := gaps{s, r.AcceptGaps, done, map[string]map[backfill.Date]bool{}}
	for _, part := range s.Dates.All() {
		for _, ph := range s.Phases(part.Season) {
			g.phase(part, ph)
		}
	}
	var faults fault.List
	for _, phase := range slices.Sorted(maps.Keys(g.found)) {
		dates := slices.Sorted(maps.Keys(g.found[phase]))
		faults.Addf("%s is needed but not complete in history for %d dates (%s): backfill them too, or name them in accept_gaps",
			phase, len(dates), spans(s.Calendar, dates))
	}
	return faults.Err()
}

// phase looks at what one phase of a date builds on.
func (g *gaps) phase(part backfill.Partition, ph *backfill.Phase) {
	for _, after := range ph.After {
		if !g.scope.Selected(after) {
			g.need(after, part)
		}
	}
	for i := range ph.Processors {
		for _, w := range ph.Processors[i].Windows {
			for _, p := range g.scope.Window(w, ph.ID, part.Date) {
				if _, ours := g.scope.Dates.Index(p.Date); !ours || !g.scope.Selected(w.Phase) {
					g.need(w.Phase, p)
				}
			}
		}
	}
}

// need notes a cell unless history has all of it.
func (g *gaps) need(phase string, p backfill.Partition) {
	ph, ok := g.scope.Pipeline.Phase(phase)
	if !ok || !ph.AppliesTo(p.Season) || slices.ContainsFunc(g.accepted, func(s backfill.Span) bool { return s.Contains(p.Date) }) {
		return
	}
	for i := range ph.Processors {
		if !g.done[warehouse.Run{Date: p.Date, Phase: phase, Processor: ph.Processors[i].Name}] {
			if g.found[phase] == nil {
				g.found[phase] = map[backfill.Date]bool{}
			}
			g.found[phase][p.Date] = true
			return
		}
	}
}

// spans writes dates as ranges of neighbours in the calendar, in the form that accept_gaps takes.
func spans(cal backfill.Calendar, dates []backfill.Date) string {
	var out []string
	for i := 0; i < len(dates); {
		j := i
		at, _ := cal.Index(dates[i])
		for j+1 < len(dates) && at+1 < cal.Len() && cal.At(at+1).Date == dates[j+1] {
			j, at = j+1, at+1
		}
		if i == j {
			out = append(out, dates[i].String())
		} else {
			out = append(out, dates[i].String()+".."+dates[j].String())
		}
		i = j + 1
	}
	return strings.Join(out, ", ")
}

// record is a date's first record: what history has is skipped, unless the request forces it.
func record(s *backfill.Scope, part backfill.Partition, force bool, done map[warehouse.Run]bool, now time.Time) backfill.Record {
	var facts []backfill.Fact
	for _, ph := range s.Phases(part.Season) {
		n := 0
		for i := range ph.Processors {
			name := ph.Processors[i].Name
			if !force && done[warehouse.Run{Date: part.Date, Phase: ph.ID, Processor: name}] {
				n++
				facts = append(facts, backfill.Fact{
					Key:   backfill.Key{Phase: ph.ID, Processor: name, Kind: backfill.Skipped},
					Value: backfill.Value{At: now, Message: "already succeeded in history"},
				})
			}
		}
		if n == len(ph.Processors) {
			facts = append(facts, backfill.Fact{Key: backfill.Key{Phase: ph.ID, Kind: backfill.Complete}, Value: backfill.Value{At: now}})
		}
	}
	return backfill.NewRecord(part.Date, part.Season, facts...)
}
