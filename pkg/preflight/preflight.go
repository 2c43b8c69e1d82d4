// Package preflight asks whether everything that a backfill needs is there, before anything is called. All checks
// run, also after one that fails, and nothing is written.
package preflight

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/cost"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/warehouse"
)

// Result is what came of a check.
type Result string

// The results. Skipped checks say why, and hold nothing back.
const (
	OK      Result = "ok"
	Failed  Result = "failed"
	Skipped Result = "skipped"
)

// Finding is a check and what came of it.
type Finding struct {
	Check  string // request, calendar, history, predecessors, dates, tables, targets, topics or budget
	Result Result
	Detail string // what was looked at, or what is wrong
	Do     string // what to do about a failure
}

func (f Finding) String() string {
	if f.Do == "" {
		return f.Check + ": " + f.Detail
	}
	return f.Check + ": " + f.Detail + ": " + f.Do
}

// Owners says which running backfill owns a date; NotFound for none.
type Owners interface {
	Owner(ctx context.Context, pipeline string, date backfill.Date) (string, error)
}

// Topics looks at the topics and subscriptions of a bus, and at what this process may do with them.
type Topics interface {
	Check(ctx context.Context) []error
}

// Preflight is what the checks ask.
type Preflight struct {
	Planner *planner.Planner
	Owners  Owners
	Probe   func(ctx context.Context, url, auth string) error // of a target's health; nil skips it
	Topics  Topics                                            // nil where the bus is in the process
	// Embedded says that the tables of the platform may well live elsewhere: one that is missing is skipped.
	Embedded bool
}

// Faults are the failures as faults of a request, nil when there are none.
func Faults(findings []Finding) error {
	var out fault.List
	for _, f := range findings {
		if f.Result == Failed {
			out = append(out, f.String())
		}
	}
	return out.Err()
}

// Request checks everything about a request, the forecast against its budget included.
func (p *Preflight) Request(ctx context.Context, r backfill.Request, now time.Time) ([]Finding, error) {
	plan, stages := p.Planner.Stages(ctx, r, now)
	var out []Finding
	for _, s := range stages {
		switch {
		case s.Err == nil:
			out = append(out, Finding{s.Name, OK, stageDetail(s.Name, plan), ""})
		case fault.Is(s.Err, fault.Invalid):
			for _, f := range fault.Faults(s.Err) {
				out = append(out, Finding{s.Name, Failed, f, ""})
			}
		default:
			out = append(out, Finding{s.Name, Failed, s.Err.Error(), "try again; if it stays so, look at the service that does not answer"})
		}
	}
	if pl, ok := p.Planner.Pipelines[r.Pipeline]; ok {
		out = append(out, p.environment(ctx, pl)...)
	}
	if plan == nil {
		const why = "not known before the request is in order"
		return append(out, Finding{"dates", Skipped, why, ""}, Finding{"budget", Skipped, why, ""}), ctx.Err()
	}
	out = append(out, p.owners(ctx, plan)...)
	return append(out, p.budget(ctx, r, now)...), ctx.Err()
}

func stageDetail(stage string, plan *planner.Plan) string {
	if plan == nil {
		return ""
	}
	dates := plan.Backfill.Dates
	switch stage {
	case "calendar":
		return fmt.Sprintf("%d dates, %s to %s", dates.Len(), dates.At(0).Date, dates.At(dates.Len()-1).Date)
	case "history":
		if plan.Pipeline.History == nil {
			return "the pipeline has none: nothing is skipped"
		}
		return plan.Pipeline.History.Table
	case "predecessors":
		return "what the dates build on is complete, part of the backfill, or accepted as a gap"
	default:
		return plan.Pipeline.Name + " knows every phase and limit that is named"
	}
}

func (p *Preflight) environment(ctx context.Context, pl *backfill.Pipeline) []Finding {
	out := p.tables(ctx, pl)
	out = append(out, p.targets(ctx, pl)...)
	return append(out, p.topics(ctx)...)
}

// tables looks for the tables of a pipeline and the columns that it names.
func (p *Preflight) tables(ctx context.Context, pl *backfill.Pipeline) []Finding {
	want := named(pl)
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	slices.Sort(names)
	found := make([]Finding, len(names))
	var g errgroup.Group
	g.SetLimit(16)
	for i, name := range names {
		g.Go(func() error {
			found[i] = p.table(ctx, name, want[name])
			return nil
		})
	}
	_ = g.Wait()
	return summed("tables", found, fmt.Sprintf("%d tables have the columns that the pipeline names", len(names)))
}

func (p *Preflight) table(ctx context.Context, name string, columns []string) Finding {
	have, err := p.Planner.Warehouse.Columns(ctx, name)
	if fault.Is(err, fault.NotFound) && p.Embedded {
		return Finding{"tables", Skipped, fmt.Sprintf("the local warehouse has no table %s", name), ""}
	}
	if err == nil {
		err = warehouse.MissingColumn(name, have, columns...)
	}
	if err != nil {
		return Finding{"tables", Failed, err.Error(), "create it, or mend the pipeline file"}
	}
	return Finding{"tables", OK, name, ""}
}

// named lists the tables that a pipeline names, with the columns that it names of each.
func named(pl *backfill.Pipeline) map[string][]string {
	out := map[string][]string{}
	add := func(table string, columns ...string) {
		if table == "" {
			return
		}
		for _, c := range columns {
			if c != "" && !slices.Contains(out[table], c) {
				out[table] = append(out[table], c)
			}
		}
		if out[table] == nil {
			out[table] = []string{}
		}
	}
	column := func(name string) { // dataset.table.column
		if i := strings.LastIndex(name, "."); i > 0 {
			add(name[:i], name[i+1:], pl.Partition.Column)
		}
	}
	if t := pl.Partition.Table; t != nil {
		add(t.Table, t.Date, t.Season)
	}
	if h := pl.History; h != nil {
		add(h.Table, h.Processor, h.Date, h.Phase, h.Status, h.Duration)
	}
	for i := range pl.Phases {
		for _, t := range pl.Phases[i].Outputs {
			add(t, pl.Partition.Column)
		}
	}
	for _, c := range pl.Checks {
		add(c.Table, pl.Partition.Column)
		for _, name := range append([]string{c.Over, c.To, c.Column}, c.Columns...) {
			column(name)
		}
	}
	return out
}

// summed lists what is not in order, or says in one line that all is.
func summed(check string, found []Finding, ok string) []Finding {
	out := slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Result == OK })
	if len(out) == 0 {
		return []Finding{{check, OK, ok, ""}}
	}
	return out
}

// targets asks the health of each target once.
func (p *Preflight) targets(ctx context.Context, pl *backfill.Pipeline) []Finding {
	type target struct{ url, auth string }
	var all []target
	for i := range pl.Phases {
		h := pl.Phases[i].Trigger.HTTP
		if h == nil || h.Health == "" {
			continue
		}
		t := target{healthURL(h.URL, h.Health), h.Auth}
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	if p.Probe == nil || len(all) == 0 {
		return []Finding{{"targets", Skipped, "the pipeline declares no health path", ""}}
	}
	found := make([]Finding, len(all))
	var wg sync.WaitGroup
	for i, t := range all {
		wg.Go(func() {
			found[i] = Finding{"targets", OK, t.url, ""}
			if err := p.Probe(ctx, t.url, t.auth); err != nil {
				found[i] = Finding{"targets", Failed, fmt.Sprintf("%s: %v", t.url, err), "deploy or restart the service, or mend url and health in the pipeline file"}
			}
		})
	}
	wg.Wait()
	return summed("targets", found, fmt.Sprintf("%d targets are healthy", len(all)))
}

func (p *Preflight) topics(ctx context.Context) []Finding {
	if p.Topics == nil {
		return []Finding{{"topics", OK, "in this process", ""}}
	}
	var out []Finding
	for _, err := range p.Topics.Check(ctx) {
		out = append(out, Finding{"topics", Failed, err.Error(), "apply the infrastructure, or grant the service account what it lacks"})
	}
	if len(out) == 0 {
		return []Finding{{"topics", OK, "topics and subscriptions are there, and may be used", ""}}
	}
	return out
}

// owners looks for other running backfills on the dates.
func (p *Preflight) owners(ctx context.Context, plan *planner.Plan) []Finding {
	dates := plan.Backfill.Dates
	owned := make([]string, dates.Len())
	var g errgroup.Group
	g.SetLimit(32)
	for i := range owned {
		g.Go(func() error {
			id, err := p.Owners.Owner(ctx, plan.Pipeline.Name, dates.At(i).Date)
			if err == nil && id != plan.Backfill.ID {
				owned[i] = id
			}
			if fault.Is(err, fault.NotFound) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return []Finding{{"dates", Failed, err.Error(), "try again"}}
	}
	counts := map[string]int{}
	for _, id := range owned {
		if id != "" {
			counts[id]++
		}
	}
	var out []Finding
	for id, n := range counts {
		out = append(out, Finding{"dates", Failed, fmt.Sprintf("%d dates belong to the running backfill %s", n, id), "wait for it, cancel it, or choose other dates"})
	}
	slices.SortFunc(out, func(a, b Finding) int { return cmp.Compare(a.Detail, b.Detail) })
	if len(out) == 0 {
		return []Finding{{"dates", OK, "no other running backfill has one of them", ""}}
	}
	return out
}

// budget compares what the forecast says with what the request allows.
func (p *Preflight) budget(ctx context.Context, r backfill.Request, now time.Time) []Finding {
	f, err := p.Planner.Forecast(ctx, r, planner.WhatIf{Seeds: 1}, now)
	if err != nil {
		return []Finding{{"budget", Failed, err.Error(), ""}}
	}
	total := cost.Total(f.Cost)
	detail := fmt.Sprintf("about %s and $%.2f are expected", f.P50.Round(time.Second), total)
	switch {
	case f.Typical.Exhausted > 0:
		return []Finding{{"budget", Failed, fmt.Sprintf("%d runs are expected to use up their attempts", f.Typical.Exhausted), "allow more attempts in the pipeline file"}}
	case r.BudgetUSD > 0 && total > r.BudgetUSD:
		return []Finding{{"budget", Failed, fmt.Sprintf("%s, and budget_usd is %.2f", detail, r.BudgetUSD), "raise the budget, or ask for fewer dates"}}
	case r.BudgetUSD > 0:
		detail += fmt.Sprintf(" of budget_usd %.2f", r.BudgetUSD)
	}
	return []Finding{{"budget", OK, detail, ""}}
}
