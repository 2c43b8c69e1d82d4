package verify_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/verify"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
)

const first = backfill.Date(19700)

func f(v float64) *float64 { return &v }

// counting counts the queries of a warehouse.
type counting struct {
	*sqlitewarehouse.Warehouse
	queries int
	fail    error
}

func (c *counting) Select(ctx context.Context, purpose, query string, dates []backfill.Date, f func([]string, []any) error) error {
	c.queries++
	if c.fail != nil {
		return c.fail
	}
	return c.Warehouse.Select(ctx, purpose, query, dates, f)
}

// data makes raw.in and raw.out with four rows on each of n dates, half of them in each of two seasons: players a to d,
// values 1 to 4.
func data(t *testing.T, n int) (*counting, []backfill.Partition) {
	t.Helper()
	w, err := sqlitewarehouse.Open(t.Context(), filepath.Join(t.TempDir(), "w.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	var parts []backfill.Partition
	var rows [][]any
	for i := range n {
		d := first + backfill.Date(i)
		parts = append(parts, backfill.Partition{Date: d, Season: fmt.Sprint("s", 2*i/n)})
		for j := range 4 {
			rows = append(rows, []any{d.String(), string(rune('a' + j)), j + 1})
		}
	}
	for _, name := range []string{"raw.in", "raw.out"} {
		tab := sqlitewarehouse.Table{Name: name, Columns: []string{"day", "player", "v"}, Partition: "day"}
		if err := w.CreateTable(t.Context(), tab); err != nil {
			t.Fatal(err)
		}
		if err := w.Insert(t.Context(), tab, rows); err != nil {
			t.Fatal(err)
		}
	}
	return &counting{Warehouse: w}, parts
}

// replace replaces the rows of a date in raw.out.
func replace(t *testing.T, w *counting, d backfill.Date, rows ...[]any) {
	t.Helper()
	tab := sqlitewarehouse.Table{Name: "raw.out", Columns: []string{"day", "player", "v"}, Partition: "day"}
	if err := w.ReplacePartition(t.Context(), tab, d.String(), rows); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, w *counting, parts []backfill.Partition, c backfill.Check) verify.Outcome {
	t.Helper()
	cal := backfill.NewCalendar(parts)
	s := verify.Settings{
		Source: w, Pipeline: &backfill.Pipeline{Name: "p", Partition: backfill.PartitionSource{Column: "day"}},
		Calendar: func(context.Context) (backfill.Calendar, error) { return cal, nil },
	}
	c.After = "one"
	out, err := s.Run(t.Context(), []backfill.Check{c}, parts)
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func TestEveryKind(t *testing.T) {
	t.Parallel()
	bad := first + 3
	day := bad.String()
	for name, c := range map[string]struct {
		check backfill.Check
		spoil [][]any
		says  string
	}{
		"a ratio":                 {backfill.Check{Kind: "count_ratio", Over: "raw.in.player", To: "raw.out.player", Min: f(0.9)}, [][]any{{day, "a", 1}, {day, "a", 2}, {day, nil, 2}}, "0.250: 1 of 4 are left"},
		"nothing left":            {backfill.Check{Kind: "count_ratio", Over: "raw.in.player", To: "raw.out.player", Min: f(0.9)}, nil, "0.000: 0 of 4"},
		"nothing to begin with":   {backfill.Check{Kind: "count_ratio", Over: "raw.out.player", To: "raw.in.player", Min: f(0.9)}, nil, "nothing to count in raw.out.player"},
		"a mean":                  {backfill.Check{Kind: "distribution", Column: "raw.out.v", HasMean: true, Mean: [2]float64{2, 3}}, [][]any{{day, "a", 4}}, "mean 4 is not between 2 and 3"},
		"a deviation":             {backfill.Check{Kind: "distribution", Column: "raw.out.v", HasStdDev: true, StdDev: [2]float64{1.2, 1.3}}, [][]any{{day, "a", 1}, {day, "b", 5}}, "standard deviation 2.828"},
		"a minimum":               {backfill.Check{Kind: "distribution", Column: "raw.out.v", Min: f(1)}, [][]any{{day, "a", -2.5}, {day, "b", 9}}, "the least value -2.5 is below 1"},
		"a maximum":               {backfill.Check{Kind: "distribution", Column: "raw.out.v", Max: f(4)}, [][]any{{day, "a", 500}}, "the greatest value 500 is above 4"},
		"only NULLs":              {backfill.Check{Kind: "distribution", Column: "raw.out.v", Max: f(4)}, [][]any{{day, "a", nil}}, "no values in raw.out.v"},
		"NULLs":                   {backfill.Check{Kind: "null_fraction", Columns: []string{"raw.out.player", "raw.in.v"}, Max: f(0.25)}, [][]any{{day, nil, 1}, {day, nil, 1}, {day, "c", 1}}, "raw.out.player is NULL in 2 of 3 rows (0.667)"},
		"no rows":                 {backfill.Check{Kind: "null_fraction", Columns: []string{"raw.out.player", "raw.out.v"}, Max: f(0.25)}, nil, "no rows in raw.out"},
		"rows that should not be": {backfill.Check{Kind: "sql", Expect: "no_rows", Query: "SELECT day, v FROM `raw.out` WHERE day IN UNNEST(@dates) AND v > 4"}, [][]any{{day, "a", 7}, {day, "a", 8}}, "2 rows, the first is day=" + day + " v=7"},
		"rows that should be":     {backfill.Check{Kind: "sql", Expect: "rows", Query: "SELECT day FROM raw.out WHERE day IN UNNEST(@dates) AND player = 'd'"}, [][]any{{day, "a", 1}}, "no rows"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, parts := data(t, 10)
			c.check.Name = "c"
			if o := run(t, w, parts, c.check); o.Result != verify.Passed || o.Detail == "" || w.queries != 1 {
				t.Fatalf("good data, %d queries: %+v", w.queries, o)
			}
			replace(t, w, bad, c.spoil...)
			o := run(t, w, parts, c.check)
			if o.Result != verify.Failed || len(o.Failures) != 1 || o.Failures[0].When() != day || !strings.Contains(o.Failures[0].Detail, c.says) {
				t.Errorf("%+v does not say %q", o, c.says)
			}
		})
	}
}

func TestAQueryWithoutDatesJudgesThemAll(t *testing.T) {
	t.Parallel()
	w, parts := data(t, 4)
	c := backfill.Check{Name: "c", Kind: "sql", Expect: "no_rows", Query: "SELECT count(*) AS n FROM raw.out WHERE day IN UNNEST(@dates)"}
	if o := run(t, w, parts, c); o.Result != verify.Failed || len(o.Failures) != 4 || o.Failures[3].Detail != "1 rows, the first is n=16" {
		t.Errorf("%+v", o)
	}
}

func TestSeasonsAreComparedLikeWithLike(t *testing.T) {
	t.Parallel()
	c := backfill.Check{
		Name: "c", Kind: "season_over_season", Table: "raw.out", Metrics: []string{"count_dates", "count_distinct(player)", "avg(v)", "sum(v)", "min(v)", "max(v)"}, MaxChange: f(0.2),
	}
	w, parts := data(t, 20)
	o := run(t, w, parts, c)
	if o.Result != verify.Passed || w.queries != 1 || o.Detail != "s1 beside s0: count_dates 10 after 10, count_distinct(player) 4 after 4, avg(v) 2.5 after 2.5, sum(v) 100 after 100, min(v) 1 after 1, max(v) 4 after 4" {
		t.Errorf("%d queries, %+v", w.queries, o)
	}
	replace(t, w, parts[12].Date)
	half := parts[10:15] // of these five, one is empty: 20 % is still right, a third is not
	if o := run(t, w, parts, c); o.Result != verify.Passed {
		t.Errorf("%+v", o)
	}
	settings := verify.Settings{
		Source: w, Pipeline: &backfill.Pipeline{Partition: backfill.PartitionSource{Column: "day"}},
		Calendar: func(context.Context) (backfill.Calendar, error) { return backfill.NewCalendar(parts), nil },
	}
	out, err := settings.Run(t.Context(), []backfill.Check{c}, half)
	if err != nil || out[0].Result != verify.Passed || !strings.Contains(out[0].Detail, "count_dates 4 after 5") {
		t.Errorf("%+v, %v", out, err)
	}
	replace(t, w, parts[13].Date)
	out, err = settings.Run(t.Context(), []backfill.Check{c}, half)
	if err != nil || out[0].Result != verify.Failed || len(out[0].Failures) != 1 || out[0].Failures[0].When() != half[0].Date.String()+".."+half[4].Date.String() ||
		!strings.Contains(out[0].Failures[0].Detail, "count_dates 3 after 5 (-40%)") {
		t.Errorf("%+v, %v", out, err)
	}
	if out, err := settings.Run(t.Context(), []backfill.Check{c}, parts[:10]); err != nil || out[0].Result != verify.Skipped {
		t.Errorf("the first season: %+v, %v", out, err)
	}
}

func TestWhatCannotBeRun(t *testing.T) {
	t.Parallel()
	w, parts := data(t, 3)
	broken := backfill.Check{Name: "c", Kind: "sql", Expect: "no_rows", Query: "SELEC day FROM raw.out WHERE day IN UNNEST(@dates)"}
	if o := run(t, w, parts, broken); o.Result != verify.Failed || len(o.Failures) != 3 || !strings.Contains(o.Detail, "cannot be run") {
		t.Errorf("%+v", o)
	}
	missing := backfill.Check{Name: "c", Kind: "distribution", Column: "raw.none.v", Max: f(1)}
	if o := run(t, w, parts, missing); o.Result != verify.Failed || !strings.Contains(o.Detail, "raw.none") {
		t.Errorf("%+v", o)
	}
	s := verify.Settings{Source: w, Pipeline: &backfill.Pipeline{Partition: backfill.PartitionSource{Column: "day"}}, MissingOK: true}
	if out, err := s.Run(t.Context(), []backfill.Check{missing}, parts); err != nil || out[0].Result != verify.Skipped || out[0].Detail == "" {
		t.Errorf("%+v, %v", out, err)
	}
	if out, err := s.Run(t.Context(), []backfill.Check{missing}, nil); err != nil || out[0].Result != verify.Skipped {
		t.Errorf("no dates: %+v, %v", out, err)
	}
	w.fail = fault.New(fault.Unavailable, "try again")
	if _, err := s.Run(t.Context(), []backfill.Check{missing}, parts); !errors.Is(err, w.fail) {
		t.Errorf("what may go away is an error: %v", err)
	}
}

func TestManyDatesAreAFewQueries(t *testing.T) {
	t.Parallel()
	w, _ := data(t, 10)
	var parts []backfill.Partition
	for i := range 5000 {
		parts = append(parts, backfill.Partition{Date: first + backfill.Date(i)})
	}
	o := run(t, w, parts, backfill.Check{Name: "c", Kind: "count_ratio", Over: "raw.in.player", To: "raw.out.player", Min: f(0.9)})
	if w.queries != 3 || len(o.Failures) != 4990 || o.Detail != "the lowest ratio is 1.000, on "+first.String() {
		t.Errorf("%d queries, %d failures, %s", w.queries, len(o.Failures), o.Detail)
	}
}
