// Package preflight asks whether everything that a backfill needs is there, before anything is called. All checks
// run, also after one that fails, and nothing is written.
package preflight

import (
	"cmp"
	"context"
	"fmt"
	"maps"
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
	Check  string // request, calendar, history, predecessors, dates, tables, targets, topics, quota, timeouts or budget
	Result Result
	Detail string // what was looked at, or what is wrong
	Do     string // what to do about a failure
	// Passing says of a failure that it may go away by itself: something did not answer.
	Passing bool
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

// Checked is a request with everything that was found out about it.
type Checked struct {
	Findings []Finding
	// Plan and Forecast are nil when the request is not in order.
	Plan     *planner.Plan
	Forecast *planner.Forecast
}

// Err is nil for a request that may go ahead. It is Unavailable when all that is wrong may go away by itself, else
// Invalid with every fault.
func (c *Checked) Err() error {
	err := Faults(c.Findings)
	if err != nil && !slices.ContainsFunc(c.Findings, func(f Finding) bool { return f.Result == Failed && !f.Passing }) {
		return fault.New(fault.Unavailable, "preflight: %v", err)
	}
	return err
}

// Request checks everything about a request, the forecast against its budget included. An error says that ctx has
// ended.
func (p *Preflight) Request(ctx context.Context, r backfill.Request, now time.Time) (*Checked, error) {
	plan, stages := p.Planner.Stages(ctx, r, now)
	c := &Checked{Plan: plan}
	for _, s := range stages {
		switch {
		case s.Err == nil:
			c.add(Finding{Check: s.Name, Result: OK, Detail: stageDetail(s.Name, plan)})
		case fault.Is(s.Err, fault.Invalid):
			for _, f := range fault.Faults(s.Err) {
				c.add(Finding{Check: s.Name, Result: Failed, Detail: f})
			}
		default:
			c.add(Finding{Check: s.Name, Result: Failed, Detail: s.Err.Error(), Do: "try again; if it stays so, look at the service that does not answer", Passing: true})
		}
	}
	if pl, ok := p.Planner.Pipelines[r.Pipeline]; ok {
		c.add(p.environment(ctx, pl)...)
	}
	if plan == nil {
		for _, check := range []string{"dates", "quota", "timeouts", "budget"} {
			c.add(Finding{Check: check, Result: Skipped, Detail: "not known before the request is in order"})
		}
		return c, ctx.Err()
	}
	if p.Owners == nil {
		c.add(Finding{Check: "dates", Result: Skipped, Detail: "they are claimed when the backfill begins"})
	} else {
		c.add(p.owners(ctx, plan)...)
	}
	var err error
	if c.Forecast, err = p.Planner.Foresee(ctx, plan, planner.WhatIf{Seeds: 1}); err != nil {
		c.add(Finding{Check: "budget", Result: Failed, Detail: err.Error(), Do: "try again", Passing: fault.Retryable(err)})
		return c, ctx.Err()
	}
	c.add(quota(c.Forecast)...)
	c.add(timeouts(c.Forecast)...)
	c.add(budget(c.Forecast, r))
	return c, ctx.Err()
}

func (c *Checked) add(f ...Finding) { c.Findings = append(c.Findings, f...) }

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
		return Finding{Check: "tables", Result: Skipped, Detail: fmt.Sprintf("the local warehouse has no table %s", name)}
	}
	if err == nil {
		err = warehouse.MissingColumn(name, have, columns...)
	}
	if err != nil {
		return Finding{Check: "tables", Result: Failed, Detail: err.Error(), Do: "create it, or mend the pipeline file", Passing: fault.Retryable(err)}
	}
	return Finding{Check: "tables", Result: OK, Detail: name}
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
		return []Finding{{Check: check, Result: OK, Detail: ok}}
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
		return []Finding{{Check: "targets", Result: Skipped, Detail: "the pipeline declares no health path"}}
	}
	found := make([]Finding, len(all))
	var wg sync.WaitGroup
	for i, t := range all {
		wg.Go(func() {
			found[i] = Finding{Check: "targets", Result: OK, Detail: t.url}
			if err := p.Probe(ctx, t.url, t.auth); err != nil {
				found[i] = Finding{Check: "targets", Result: Failed, Detail: fmt.Sprintf("%s: %v", t.url, err), Do: "deploy or restart the service, or mend url and health in the pipeline file"}
			}
		})
	}
	wg.Wait()
	return summed("targets", found, fmt.Sprintf("%d targets are healthy", len(all)))
}

func (p *Preflight) topics(ctx context.Context) []Finding {
	if p.Topics == nil {
		return []Finding{{Check: "topics", Result: OK, Detail: "in this process"}}
	}
	var out []Finding
	for _, err := range p.Topics.Check(ctx) {
		out = append(out, Finding{Check: "topics", Result: Failed, Detail: err.Error(), Do: "apply the infrastructure, or grant the service account what it lacks"})
	}
	if len(out) == 0 {
		return []Finding{{Check: "topics", Result: OK, Detail: "topics and subscriptions are there, and may be used"}}
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
		return []Finding{{Check: "dates", Result: Failed, Detail: err.Error(), Do: "try again"}}
	}
	counts := map[string]int{}
	for _, id := range owned {
		if id != "" {
			counts[id]++
		}
	}
	var out []Finding
	for id, n := range counts {
		out = append(out, Finding{Check: "dates", Result: Failed, Detail: fmt.Sprintf("%d dates belong to the running backfill %s", n, id), Do: "wait for it, cancel it, or choose other dates"})
	}
	slices.SortFunc(out, func(a, b Finding) int { return cmp.Compare(a.Detail, b.Detail) })
	if len(out) == 0 {
		return []Finding{{Check: "dates", Result: OK, Detail: "no other running backfill has one of them"}}
	}
	return out
}

// queryBytesPerDay is BigQuery's default quota of on-demand query usage for a project and a day, 200 TiB
// (cloud.google.com/bigquery/quotas, read in a stored copy on 2026-11-24); a project may have another.
const queryBytesPerDay = 200 << 40

// quota holds what the busiest day of the forecast asks of outside APIs and of BigQuery against what they allow.
func quota(f *planner.Forecast) []Finding {
	days := max(1, f.P50.Hours()/24)
	var out []Finding
	for _, name := range slices.Sorted(maps.Keys(f.Pipeline.Limiters)) {
		l := f.Pipeline.Limiters[name]
		calls := float64(f.Typical.Limiters[name].Calls) / days
		if l.PerDay > 0 && calls > float64(l.PerDay) {
			out = append(out, Finding{
				Check: "quota", Result: Failed, Detail: fmt.Sprintf("%.0f calls a day are expected of %s, and per_day is %d", calls, name, l.PerDay),
				Do: "ask for fewer dates, lower the limiter's rate, or get a larger quota",
			})
		}
	}
	for _, part := range f.Cost {
		if part.What == cost.BigQueryBytes.What && part.Amount/days > queryBytesPerDay {
			out = append(out, Finding{
				Check: "quota", Result: Failed, Detail: fmt.Sprintf("%.0f TiB a day are expected to be billed by BigQuery, whose default quota is 200 TiB", part.Amount/days/(1<<40)),
				Do: "ask for fewer dates, or get a larger quota",
			})
		}
	}
	if len(out) == 0 {
		return []Finding{{Check: "quota", Result: OK, Detail: "what is expected stays within per_day of the limiters and BigQuery's default quota"}}
	}
	return out
}

// timeouts finds processors that cannot be done in the time that they have.
func timeouts(f *planner.Forecast) []Finding {
	var out []Finding
	for _, slow := range f.Slow() {
		out = append(out, Finding{Check: "timeouts", Result: Failed, Detail: slow, Do: "give it a longer timeout in the pipeline file"})
	}
	if len(out) == 0 {
		return []Finding{{Check: "timeouts", Result: OK, Detail: "every processor has time enough, as far as is known"}}
	}
	return out
}

// budget compares what the forecast says with what the request allows.
func budget(f *planner.Forecast, r backfill.Request) Finding {
	total := cost.Total(f.Cost)
	detail := fmt.Sprintf("about %s and $%.2f are expected", f.P50.Round(time.Second), total)
	switch {
	case r.BudgetUSD > 0 && total > r.BudgetUSD:
		return Finding{Check: "budget", Result: Failed, Detail: fmt.Sprintf("%s, and budget_usd is %.2f", detail, r.BudgetUSD), Do: "raise the budget, or ask for fewer dates"}
	case r.BudgetUSD > 0:
		detail += fmt.Sprintf(" of budget_usd %.2f", r.BudgetUSD)
	}
	return Finding{Check: "budget", Result: OK, Detail: detail}
}
