// Package verify runs the data checks of a pipeline. Each check becomes one query for a whole batch of dates, which
// reads only the partitions of those dates; what it answers is judged here, date by date.
package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
)

// Result is what came of a check.
type Result string

// The results. A skipped check says why; it has found nothing, and holds nothing.
const (
	Passed  Result = "passed"
	Failed  Result = "failed"
	Skipped Result = "skipped"
)

// Outcome is what came of one check over many dates.
type Outcome struct {
	Check    backfill.Check
	Result   Result
	Dates    int    // that were looked at
	Detail   string // what was found over all of them, or why nothing could be
	Failures []Failure
}

// Failure is a date that fails, or a whole season when Until is set.
type Failure struct {
	Date   backfill.Date
	Until  backfill.Date // the season's last date; zero for a single date
	Detail string
}

// When is the date or the span of dates.
func (f Failure) When() string {
	if f.Until == 0 {
		return f.Date.String()
	}
	return f.Date.String() + ".." + f.Until.String()
}

// Settings is what checks are run with.
type Settings struct {
	Source   warehouse.Selecter
	Pipeline *backfill.Pipeline
	// Calendar is the whole calendar, in which season_over_season finds the season before; it is asked for once, and
	// only when a check needs it.
	Calendar func(context.Context) (backfill.Calendar, error)
	// MissingOK has checks of tables that are not there skipped, for a warehouse beside the one that processors write to.
	MissingOK bool
}

// batch bounds the dates of one query.
const batch = 2000

// Run runs checks over dates. Only what may go away by itself is an error: a check that cannot be run fails.
func (s Settings) Run(ctx context.Context, checks []backfill.Check, dates []backfill.Partition) ([]Outcome, error) {
	out := make([]Outcome, 0, len(checks))
	for i := range checks {
		o, err := s.one(ctx, &checks[i], dates)
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", checks[i].Name, err)
		}
		out = append(out, o)
	}
	return out, nil
}

func (s Settings) one(ctx context.Context, c *backfill.Check, dates []backfill.Partition) (Outcome, error) {
	o := Outcome{Check: *c, Result: Passed, Dates: len(dates)}
	if len(dates) == 0 {
		o.Result, o.Detail = Skipped, "no date is complete in "+c.After
		return o, nil
	}
	var err error
	switch c.Kind {
	case "season_over_season":
		err = s.seasons(ctx, c, dates, &o)
	default:
		err = s.dates(ctx, c, dates, &o)
	}
	switch {
	case err == nil:
	case fault.Is(err, fault.NotFound) && s.MissingOK:
		o.Result, o.Failures, o.Detail = Skipped, nil, "not in this warehouse: "+err.Error()
		return o, nil
	case fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) || fault.Is(err, fault.Refused):
		o.Detail, o.Failures = "cannot be run: "+err.Error(), nil
		for _, p := range dates {
			o.Failures = append(o.Failures, Failure{Date: p.Date, Detail: "cannot be run"})
		}
	default:
		return o, err
	}
	if len(o.Failures) > 0 {
		o.Result = Failed
		slices.SortStableFunc(o.Failures, func(a, b Failure) int { return cmp.Compare(a.Date, b.Date) })
	}
	return o, nil
}

// compiled is a check as a query, and how its rows are read: each says something of one date.
type compiled struct {
	sql   string
	row   func(columns []string, row []any) error
	judge func(day string) (failure string) // of a date; empty when it passes
	sum   func() string                     // what was found over all dates
}

// dates runs a check that judges date by date.
func (s Settings) dates(ctx context.Context, c *backfill.Check, parts []backfill.Partition, o *Outcome) error {
	q, err := s.compile(c)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(parts, batch) {
		days := make([]backfill.Date, len(chunk))
		for i, p := range chunk {
			days[i] = p.Date
		}
		if err := s.Source.Select(ctx, "check "+c.Name, q.sql, days, q.row); err != nil {
			return err
		}
		for _, d := range days {
			if why := q.judge(d.String()); why != "" {
				o.Failures = append(o.Failures, Failure{Date: d, Detail: why})
			}
		}
	}
	o.Detail = q.sum()
	return nil
}

func (s Settings) compile(c *backfill.Check) (compiled, error) {
	d := s.Source.Dialect()
	column := s.Pipeline.Partition.Column
	switch c.Kind {
	case "count_ratio":
		return countRatio(d, column, c), nil
	case "distribution":
		return distribution(d, column, c), nil
	case "null_fraction":
		return nullFraction(d, column, c), nil
	case "sql":
		return query(column, c), nil
	default:
		return compiled{}, fault.New(fault.Invalid, "unknown kind of check %q", c.Kind)
	}
}

// split is a dataset.table.column as table and column.
func split(name string) (table, column string) {
	i := strings.LastIndex(name, ".")
	return name[:max(i, 0)], name[i+1:]
}

// number is a value that a warehouse gave, 0 for NULL.
func number(v any) float64 {
	switch n := v.(type) {
	case int64:
		return float64(n)
	case float64:
		return n
	default:
		return 0
	}
}

func word(v any) string { s, _ := v.(string); return s }
