package verify

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/warehouse"
)

// countRatio compares how many different values two columns have on a date: players in the box scores, and those of
// them that are left in the features.
func countRatio(d warehouse.Dialect, partition string, c *backfill.Check) compiled {
	side := func(name string, first bool) string {
		table, column := split(name)
		over, to := "COUNT(DISTINCT "+d.Quote(column)+")", "0"
		if !first {
			over, to = to, over
		}
		return fmt.Sprintf("SELECT %s AS day, %s AS over_count, %s AS to_count FROM %s WHERE %s GROUP BY day",
			d.Day(partition), over, to, d.Quote(table), d.In(partition))
	}
	type pair struct{ over, to float64 }
	counts := map[string]pair{}
	worst, at := math.Inf(1), ""
	return compiled{
		sql: "SELECT day, SUM(over_count) AS over_count, SUM(to_count) AS to_count FROM (" + side(c.Over, true) + " UNION ALL " + side(c.To, false) + ") AS counts GROUP BY day",
		row: func(_ []string, row []any) error {
			p := pair{number(row[1]), number(row[2])}
			counts[word(row[0])] = p
			if r := p.to / p.over; p.over > 0 && r < worst {
				worst, at = r, word(row[0])
			}
			return nil
		},
		judge: func(day string) string {
			p := counts[day]
			switch {
			case p.over == 0:
				return "nothing to count in " + c.Over
			case p.to < *c.Min*p.over:
				return fmt.Sprintf("%.3f: %g of %g are left, and %g is the least", p.to/p.over, p.to, p.over, *c.Min)
			default:
				return ""
			}
		},
		sum: func() string {
			if at == "" {
				return "nothing to count"
			}
			return fmt.Sprintf("the lowest ratio is %.3f, on %s", worst, at)
		},
	}
}

// distribution looks at the mean, the standard deviation, the least and the greatest value of a column on each date.
// The deviations are summed around the mean of the date, in one query and without loss of digits.
func distribution(d warehouse.Dialect, partition string, c *backfill.Check) compiled {
	table, column := split(c.Column)
	type stats struct{ n, mean, least, most, squares float64 }
	all := map[string]stats{}
	var sum stats
	return compiled{
		sql: fmt.Sprintf("SELECT day, COUNT(v), AVG(v), MIN(v), MAX(v), SUM((v - m) * (v - m)) FROM ("+
			"SELECT %[1]s AS day, %[2]s AS v, AVG(%[2]s) OVER (PARTITION BY %[3]s) AS m FROM %[4]s WHERE %[5]s) AS vals GROUP BY day",
			d.Day(partition), d.Number(column), d.Quote(partition), d.Quote(table), d.In(partition)),
		row: func(_ []string, row []any) error {
			s := stats{number(row[1]), number(row[2]), number(row[3]), number(row[4]), number(row[5])}
			all[word(row[0])] = s
			if sum.n == 0 {
				sum.least, sum.most = s.least, s.most
			}
			sum.n, sum.mean = sum.n+s.n, sum.mean+s.n*s.mean
			sum.least, sum.most = min(sum.least, s.least), max(sum.most, s.most)
			return nil
		},
		judge: func(day string) string {
			s, ok := all[day]
			if !ok || s.n == 0 {
				return "no values in " + c.Column
			}
			dev := math.Sqrt(s.squares / max(1, s.n-1))
			var why []string
			outside := func(what string, v float64, has bool, bounds [2]float64) {
				if has && (v < bounds[0] || v > bounds[1]) {
					why = append(why, fmt.Sprintf("%s %.4g is not between %g and %g", what, v, bounds[0], bounds[1]))
				}
			}
			outside("mean", s.mean, c.HasMean, c.Mean)
			outside("standard deviation", dev, c.HasStdDev, c.StdDev)
			if c.Min != nil && s.least < *c.Min {
				why = append(why, fmt.Sprintf("the least value %.4g is below %g", s.least, *c.Min))
			}
			if c.Max != nil && s.most > *c.Max {
				why = append(why, fmt.Sprintf("the greatest value %.4g is above %g", s.most, *c.Max))
			}
			return strings.Join(why, ", ")
		},
		sum: func() string {
			if sum.n == 0 {
				return "no values"
			}
			return fmt.Sprintf("%g values, mean %.4g, from %.4g to %.4g", sum.n, sum.mean/sum.n, sum.least, sum.most)
		},
	}
}

// nullFraction counts the rows of a date in which columns are NULL.
func nullFraction(d warehouse.Dialect, partition string, c *backfill.Check) compiled {
	parts := make([]string, len(c.Columns))
	for i, name := range c.Columns {
		table, column := split(name)
		parts[i] = fmt.Sprintf("SELECT %s AS day, %d AS which, COUNT(*) AS n, SUM(CASE WHEN %s IS NULL THEN 1 ELSE 0 END) AS missing FROM %s WHERE %s GROUP BY day",
			d.Day(partition), i, d.Quote(column), d.Quote(table), d.In(partition))
	}
	type share struct{ n, missing float64 }
	all := map[string]map[int]share{}
	worst, at := -1.0, ""
	return compiled{
		sql: strings.Join(parts, " UNION ALL "),
		row: func(_ []string, row []any) error {
			day, which, s := word(row[0]), int(number(row[1])), share{number(row[2]), number(row[3])}
			if all[day] == nil {
				all[day] = map[int]share{}
			}
			all[day][which] = s
			if f := s.missing / s.n; f > worst {
				worst, at = f, c.Columns[which]+" on "+day
			}
			return nil
		},
		judge: func(day string) string {
			var why []string
			for i, name := range c.Columns {
				switch s, ok := all[day][i]; {
				case !ok:
					table, _ := split(name)
					why = append(why, "no rows in "+table)
				case s.missing > *c.Max*s.n:
					why = append(why, fmt.Sprintf("%s is NULL in %g of %g rows (%.3f), and %g is the most", name, s.missing, s.n, s.missing/s.n, *c.Max))
				}
			}
			return strings.Join(slices.Compact(why), ", ")
		},
		sum: func() string {
			if at == "" {
				return "no rows"
			}
			return fmt.Sprintf("the largest share is %.3f, of %s", worst, at)
		},
	}
}

// query runs what a person wrote. Rows are counted for the date that they have in the partition column; without one they
// count for every date that was asked for.
func query(partition string, c *backfill.Check) compiled {
	rows, first, dated, total := map[string]int{}, map[string]string{}, false, 0
	return compiled{
		sql: c.Query,
		row: func(columns []string, row []any) error {
			day := ""
			if i := slices.Index(columns, partition); i >= 0 {
				dated, day = true, word(row[i])
			}
			if total++; rows[day] == 0 {
				first[day] = show(columns, row)
			}
			rows[day]++
			return nil
		},
		judge: func(day string) string {
			if !dated {
				day = ""
			}
			n := rows[day]
			switch {
			case c.Expect == "no_rows" && n > 0:
				return fmt.Sprintf("%d rows, the first is %s", n, first[day])
			case c.Expect == "rows" && n == 0:
				return "no rows"
			default:
				return ""
			}
		},
		sum: func() string { return fmt.Sprintf("%d rows", total) },
	}
}

// show is a row for people.
func show(columns []string, row []any) string {
	parts := make([]string, len(row))
	for i, v := range row {
		parts[i] = fmt.Sprintf("%s=%v", columns[i], v)
	}
	return strings.Join(parts, " ")
}
