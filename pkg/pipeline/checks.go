package pipeline

import (
	"fmt"
	"regexp"
	"strings"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/warehouse"
)

// checks reads the data checks. Running them is not this package's business.
func (c *compiler) checks() {
	seen := map[string]bool{}
	for i := range c.file.Checks {
		at, b := fmt.Sprintf("/checks/%d", i), &c.file.Checks[i]
		if seen[b.Name] {
			c.faultf(at+"/name", "check %q is listed twice", b.Name)
		}
		seen[b.Name] = true
		if _, ok := c.p.Phase(b.After); !ok {
			c.faultf(at+"/after", "after names the unknown phase %q", b.After)
		}
		c.check(at, b)
		if b.Kind == "season_over_season" && b.Blocking {
			c.faultf(at+"/blocking", "a check of kind season_over_season looks at whole seasons and cannot hold single dates: leave blocking out")
		}
		check := backfill.Check{
			Name: b.Name, After: b.After, Kind: b.Kind, Blocking: b.Blocking, Over: b.Over, To: b.To, Column: b.Column, Columns: b.Columns,
			Min: b.Min, Max: b.Max, Table: b.Table, Metrics: b.Metrics, MaxChange: b.MaxChange, Query: b.Query, Expect: b.Expect,
		}
		copy(check.Mean[:], b.Mean)
		copy(check.StdDev[:], b.StdDev)
		check.HasMean, check.HasStdDev = len(b.Mean) == 2, len(b.StdDev) == 2
		c.p.Checks = append(c.p.Checks, check)
	}
}

// given names the fields that a check sets, with what each kind takes.
func given(b *CheckBlock) map[string]bool {
	return map[string]bool{
		"over": b.Over != "", "to": b.To != "", "column": b.Column != "", "columns": len(b.Columns) > 0, "mean": len(b.Mean) > 0,
		"stddev": len(b.StdDev) > 0, "min": b.Min != nil, "max": b.Max != nil, "table": b.Table != "", "metrics": len(b.Metrics) > 0,
		"max_change": b.MaxChange != nil, "query": b.Query != "", "expect": b.Expect != "",
	}
}

// takes lists the fields of each kind of check: those it must have, and those it may have.
var takes = map[string]struct{ must, may string }{
	"count_ratio":        {"over to min", ""},
	"distribution":       {"column", "mean stddev min max"},
	"null_fraction":      {"columns max", ""},
	"season_over_season": {"table metrics max_change", ""},
	"sql":                {"query expect", ""},
}

var metric = regexp.MustCompile(`^(count_dates|(count_distinct|avg|sum|min|max)\([A-Za-z_][A-Za-z0-9_]*\))$`)

func (c *compiler) check(at string, b *CheckBlock) {
	kind := takes[b.Kind]
	must, may, set := strings.Fields(kind.must), strings.Fields(kind.may), given(b)
	for _, f := range must {
		if !set[f] {
			c.faultf(at, "a check of kind %s needs %s", b.Kind, f)
		}
		delete(set, f)
	}
	for _, f := range may {
		delete(set, f)
	}
	for _, f := range sortedKeys(set) {
		if set[f] {
			c.faultf(at+"/"+f, "a check of kind %s takes no %s", b.Kind, f)
		}
	}
	for _, col := range append([]string{b.Over, b.To, b.Column}, b.Columns...) {
		if col != "" {
			c.column(at, col)
		}
	}
	if b.Table != "" {
		c.table(at+"/table", b.Table)
	}
	for i, m := range b.Metrics {
		if !metric.MatchString(m) {
			c.faultf(fmt.Sprintf("%s/metrics/%d", at, i), "%q is no metric: use count_dates, count_distinct(c), avg(c), sum(c), min(c) or max(c)", m)
		}
	}
	for name, r := range map[string][]float64{"mean": b.Mean, "stddev": b.StdDev} {
		if len(r) == 2 && r[0] > r[1] {
			c.faultf(at+"/"+name, "the range goes from %v down to %v: write the smaller number first", r[0], r[1])
		}
	}
	if b.Kind == "distribution" && len(b.Mean) == 0 && len(b.StdDev) == 0 && b.Min == nil && b.Max == nil {
		c.faultf(at, "a check of kind distribution that bounds nothing: give it mean, stddev, min or max")
	}
	if b.Query != "" && !strings.Contains(b.Query, "@dates") {
		c.faultf(at+"/query", "the query does not use @dates: it must look at the backfill's dates only")
	}
}

// column accepts dataset.table.column.
func (c *compiler) column(at, name string) {
	i := strings.LastIndex(name, ".")
	if i < 0 {
		c.faultf(at, "%q is not a column: write it as dataset.table.column", name)
		return
	}
	if err := warehouse.CheckTable(name[:i]); err != nil {
		c.faultf(at, "%q is not a column: write it as dataset.table.column", name)
		return
	}
	c.identifiers(at, name[i+1:])
}
