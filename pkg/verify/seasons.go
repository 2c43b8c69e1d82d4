package verify

import (
	"context"
	"fmt"
	"math"
	"strings"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/warehouse"
)

// pair is a season's dates and those of the season before that are compared with them: as many, at the same places of
// their seasons, so that half a season is compared with half a season.
type pair struct {
	season, before string
	now, then      []backfill.Date
}

// pairs finds what dates are compared with. Seasons without one before them are left out.
func pairs(cal backfill.Calendar, dates []backfill.Partition) []pair {
	var names []string
	bySeason := map[string][]backfill.Date{}
	place := map[backfill.Date]int{}
	for _, p := range cal.All() {
		if bySeason[p.Season] == nil {
			names = append(names, p.Season)
		}
		place[p.Date] = len(bySeason[p.Season])
		bySeason[p.Season] = append(bySeason[p.Season], p.Date)
	}
	asked := map[string][]backfill.Date{}
	for _, p := range dates {
		asked[p.Season] = append(asked[p.Season], p.Date)
	}
	var out []pair
	for i, name := range names {
		if i == 0 || name == "" || names[i-1] == "" || len(asked[name]) == 0 {
			continue
		}
		x := pair{season: name, before: names[i-1]}
		earlier := bySeason[names[i-1]]
		for _, d := range asked[name] {
			if at, ok := place[d]; ok && at < len(earlier) {
				x.now, x.then = append(x.now, d), append(x.then, earlier[at])
			}
		}
		if len(x.now) > 0 {
			out = append(out, x)
		}
	}
	return out
}

// pairsAtOnce bounds the seasons of one query, as the dates of each stand in its text.
const pairsAtOnce = 10

// seasons compares seasons with the ones before them.
func (s Settings) seasons(ctx context.Context, c *backfill.Check, dates []backfill.Partition, o *Outcome) error {
	cal, err := s.Calendar(ctx)
	if err != nil {
		return err
	}
	all := pairs(cal, dates)
	compared := 0
	var said []string
	for len(all) > 0 {
		n := min(len(all), pairsAtOnce)
		values, err := s.measure(ctx, c, all[:n])
		if err != nil {
			return err
		}
		for i, x := range all[:n] {
			now, then := values[2*i], values[2*i+1]
			if then == nil || then[len(then)-1] == 0 {
				said = append(said, "nothing of "+x.before+" to compare "+x.season+" with")
				continue
			}
			compared++
			why, detail := judge(c, x, now, then)
			said = append(said, detail)
			if why != "" {
				o.Failures = append(o.Failures, Failure{Date: x.now[0], Until: x.now[len(x.now)-1], Detail: why})
			}
		}
		all = all[n:]
	}
	o.Detail = strings.Join(said, "; ")
	if compared == 0 {
		o.Result = Skipped
		if o.Detail == "" {
			o.Detail = "no season before to compare with"
		}
	}
	return nil
}

// measure asks for the metrics of both sides of all pairs with one query: of pair i now at 2i, and before at 2i+1. The
// last number is how many rows there are.
func (s Settings) measure(ctx context.Context, c *backfill.Check, all []pair) ([][]float64, error) {
	d, partition := s.Source.Dialect(), s.Pipeline.Partition.Column
	metrics := make([]string, len(c.Metrics))
	for i, m := range c.Metrics {
		metrics[i] = fmt.Sprintf("%s AS m%d", metric(d, partition, m), i)
	}
	var parts []string
	var union []backfill.Date
	for i, x := range all {
		for j, side := range [][]backfill.Date{x.now, x.then} {
			union = append(union, side...)
			parts = append(parts, fmt.Sprintf("SELECT %d AS part, %s, COUNT(*) AS n FROM %s WHERE %s AND %s IN ('%s')",
				2*i+j, strings.Join(metrics, ", "), d.Quote(c.Table), d.In(partition), d.Day(partition), strings.Join(warehouse.Days(side), "', '")))
		}
	}
	out := make([][]float64, 2*len(all))
	err := s.Source.Select(ctx, "check "+c.Name, strings.Join(parts, " UNION ALL "), union, func(_ []string, row []any) error {
		values := make([]float64, len(row)-1)
		for i := range values {
			values[i] = number(row[i+1])
		}
		out[int(number(row[0]))] = values
		return nil
	})
	return out, err
}

// metric is a metric as SQL; the pipeline file has been checked.
func metric(d warehouse.Dialect, partition, m string) string {
	name, column, _ := strings.Cut(strings.TrimSuffix(m, ")"), "(")
	switch name {
	case "count_dates":
		return "COUNT(DISTINCT " + d.Quote(partition) + ")"
	case "count_distinct":
		return "COUNT(DISTINCT " + d.Quote(column) + ")"
	default:
		return strings.ToUpper(name) + "(" + d.Number(column) + ")"
	}
}

// judge compares a season with the one before.
func judge(c *backfill.Check, x pair, now, then []float64) (why, detail string) {
	var bad, all []string
	for i, m := range c.Metrics {
		text := fmt.Sprintf("%s %.5g after %.5g", m, now[i], then[i])
		all = append(all, text)
		if change := math.Abs(now[i] - then[i]); change > *c.MaxChange*math.Abs(then[i]) {
			bad = append(bad, fmt.Sprintf("%s (%+.0f%%)", text, 100*(now[i]-then[i])/math.Abs(then[i])))
		}
	}
	detail = fmt.Sprintf("%s beside %s: %s", x.season, x.before, strings.Join(all, ", "))
	if len(bad) > 0 {
		why = fmt.Sprintf("%s beside %s: %s, and %g%% is the most", x.season, x.before, strings.Join(bad, ", "), 100**c.MaxChange)
	}
	return why, detail
}
