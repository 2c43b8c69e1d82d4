package warehousetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/verify"
	"sluice.dev/pkg/warehouse"
)

var ten = time.Date(2024, 1, 5, 10, 0, 0, 0, time.UTC)

func adopting(f Tables) backfill.HistorySource {
	h := runs(f)
	h.RunID, h.Started, h.Finished, h.Records = "run_id", "started_at", "ended_at", "records_n"
	return h
}

func recorded(t *testing.T, w warehouse.Warehouse, f Tables) {
	h := adopting(f)
	stamp := func(minutes int) string {
		return ten.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339Nano)
	}
	f.Create(t, "ref.history", "data_date", []string{"data_date", "phase", "processor_name", "status", "run_id", "started_at", "ended_at", "records_n"}, [][]any{
		{"2024-01-01", "raw", "a", "success", "r1", stamp(-9), stamp(-1), 5},
		{"2024-01-01", "raw", "a", "failed", "r2", stamp(1), stamp(2), 0},
		{"2024-01-02", "raw", "b", "success", nil, nil, stamp(0), nil},
		{"2024-01-02", "raw", "c", "running", "r4", stamp(3), nil, nil},
		{"2024-01-09", "raw", "a", "success", "r5", stamp(3), stamp(4), 1},
	})
	var got []warehouse.Recorded
	must(t, w.Recorded(t.Context(), h, day(t, "2024-01-01"), day(t, "2024-01-02"), ten, func(r warehouse.Recorded) { got = append(got, r) }))
	slices.SortFunc(got, func(a, b warehouse.Recorded) int { return int(a.Date - b.Date) })
	if len(got) != 2 {
		t.Fatalf("%d runs, not the two that ended since: %+v", len(got), got)
	}
	if r := got[0]; r.Processor != "a" || r.Phase != "raw" || r.Status != "failed" || r.ID != "r2" || !r.Started.Equal(ten.Add(time.Minute)) || !r.Finished.Equal(ten.Add(2*time.Minute)) {
		t.Errorf("%+v", r)
	}
	if r := got[1]; r.Processor != "b" || r.Date != day(t, "2024-01-02") || r.ID != "" || !r.Finished.Equal(ten) {
		t.Errorf("%+v", r)
	}
}

func record(t *testing.T, w warehouse.Warehouse, f Tables) {
	h := adopting(f)
	f.Create(t, "ref.history", "data_date", []string{"data_date", "phase", "processor_name", "status", "run_id", "started_at", "ended_at", "records_n", "other"}, [][]any{
		{"2024-01-01", "raw", "a", "success", "r0", ten.Format(time.RFC3339), ten.Format(time.RFC3339), 5, "x"},
	})
	var list []warehouse.Recorded
	for i := range 30 {
		list = append(list, warehouse.Recorded{
			Run: warehouse.Run{Date: day(t, "2024-01-01") + backfill.Date(i%3), Phase: "raw", Processor: "p'" + fmt.Sprint(i)}, ID: fmt.Sprint("r", i), Status: "ok",
			Started: ten, Finished: ten.Add(time.Duration(i) * time.Second), Records: int64(i),
		})
	}
	for range 2 { // again changes nothing
		must(t, w.Record(t.Context(), h, list))
	}
	must(t, w.Record(t.Context(), h, nil))
	seen := map[string]warehouse.Recorded{}
	n := 0
	must(t, w.Recorded(t.Context(), h, day(t, "2024-01-01"), day(t, "2024-01-03"), time.Time{}, func(r warehouse.Recorded) { n++; seen[r.ID] = r }))
	if n != 30 || len(seen) != 30 {
		t.Fatalf("%d runs with %d ids, not 30", n, len(seen))
	}
	if seen["r0"].Processor != "a" {
		t.Errorf("a run that was there was written over: %+v", seen["r0"])
	}
	if r := seen["r7"]; r.Processor != "p'7" || r.Records != 7 || !r.Finished.Equal(ten.Add(7*time.Second)) || r.Date != day(t, "2024-01-02") {
		t.Errorf("%+v", r)
	}
}

// games makes a table with three rows on each of n dates.
func games(t *testing.T, f Tables, n int) {
	t.Helper()
	var rows [][]any
	for i := range n {
		for j := range 3 {
			rows = append(rows, []any{(day(t, "2024-01-01") + backfill.Date(i)).String(), fmt.Sprint("player ", j), i*3 + j})
		}
	}
	rows[1][1] = nil
	f.Create(t, "ref.games", "game_date", []string{"game_date", "player", "points_n"}, rows)
}

func selects(t *testing.T, w warehouse.Warehouse, f Tables) {
	games(t, f, 30)
	d := w.Dialect()
	table := d.Quote(f.Name("ref.games"))
	var dates []backfill.Date
	for i := range 25 {
		dates = append(dates, day(t, "2024-01-01")+backfill.Date(i))
	}
	for i := range 2000 { // of which there is nothing
		dates = append(dates, day(t, "2025-01-01")+backfill.Date(i))
	}
	got := map[string][]any{}
	must(t, w.Select(t.Context(), "a test", "SELECT "+d.Day("game_date")+" AS day, COUNT(*) AS n, AVG("+d.Number("points_n")+") AS mean, MIN("+d.Quote("player")+") AS p FROM "+table+
		" WHERE "+d.In("game_date")+" GROUP BY day ORDER BY day", dates, func(columns []string, row []any) error {
		if !slices.Equal(columns, []string{"day", "n", "mean", "p"}) {
			t.Fatalf("columns %v", columns)
		}
		got[row[0].(string)] = slices.Clone(row)
		return nil
	}))
	if len(got) != 25 {
		t.Fatalf("%d dates, not 25", len(got))
	}
	if r := got["2024-01-02"]; r[1] != int64(3) || r[2] != 4.0 || r[3] != "player 0" {
		t.Errorf("%#v", r)
	}
	// As people write it, in a form that every warehouse takes.
	n := 0
	must(t, w.Select(t.Context(), "a test", "SELECT game_date, player FROM `"+f.Name("ref.games")+"` WHERE game_date IN (SELECT DATE(d) FROM UNNEST(@dates) AS d) AND player IS NULL",
		dates[:3], func(columns []string, row []any) error {
			n++
			if columns[0] != "game_date" || row[0] != "2024-01-01" || row[1] != nil {
				t.Errorf("%v %#v", columns, row)
			}
			return nil
		}))
	if n != 1 {
		t.Errorf("%d rows, not one", n)
	}
	stop := errors.New("stop")
	if err := w.Select(t.Context(), "a test", "SELECT 1 AS one", nil, func([]string, []any) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the reader became %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Select(ctx, "a test", "SELECT 1 AS one", nil, func([]string, []any) error { return nil }); err == nil {
		t.Error("a context that has ended was not noticed")
	}
}

func badQuery(t *testing.T, w warehouse.Warehouse, f Tables) {
	games(t, f, 1)
	none := func([]string, []any) error { return nil }
	for query, kinds := range map[string][]fault.Kind{
		"SELEC 1": {fault.Invalid}, "SELECT nothing FROM `" + f.Name("ref.games") + "`": {fault.Invalid, fault.NotFound},
		"SELECT 1 FROM `" + f.Name("ref.other") + "`": {fault.NotFound, fault.Invalid},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.Select(ctx, "a test", query, nil, none); err == nil || !slices.Contains(kinds, fault.KindOf(err)) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// slice is the first and the third date of the games.
func slice(t *testing.T, f Tables) backfill.Slice {
	t.Helper()
	return backfill.Slice{Table: f.Name("ref.games"), Column: "game_date", Dates: []backfill.Date{day(t, "2024-01-01"), day(t, "2024-01-03")}}
}

func rows(t *testing.T, w warehouse.Warehouse, s backfill.Slice) int64 {
	t.Helper()
	n, _, err := w.Size(t.Context(), s)
	must(t, err)
	return n
}

func cut(t *testing.T, w warehouse.Warehouse, f Tables) {
	games(t, f, 4)
	s := slice(t, f)
	all := s
	all.Dates = []backfill.Date{day(t, "2024-01-01"), day(t, "2024-01-02"), day(t, "2024-01-03"), day(t, "2024-01-04")}
	if n := rows(t, w, s); n != 6 {
		t.Errorf("%d rows, not 6", n)
	}
	byPhase := all
	byPhase.PhaseColumn, byPhase.Phases = "player", []string{"player 2", "it's none"}
	if n, err := w.Delete(t.Context(), byPhase); err != nil || n != 4 {
		t.Errorf("%d rows deleted, not 4: %v", n, err)
	}
	for _, want := range []int64{4, 0} {
		if n, err := w.Delete(t.Context(), s); err != nil || n != want {
			t.Errorf("%d rows deleted, not %d: %v", n, want, err)
		}
	}
	if n := rows(t, w, all); n != 4 {
		t.Errorf("%d rows left, not 4", n)
	}
	s.Column = "date"
	if _, err := w.Delete(t.Context(), s); !fault.Is(err, fault.NotFound) {
		t.Errorf("a table without the partition column: %v", err)
	}
	s.Table = f.Name("ref.nothing")
	if _, _, err := w.Size(t.Context(), s); !fault.Is(err, fault.NotFound) {
		t.Errorf("a table that is not there: %v", err)
	}
}

func snapshot(t *testing.T, w warehouse.Warehouse, f Tables) {
	games(t, f, 4)
	s := slice(t, f)
	name := f.Name("ref.games_before")
	must(t, w.Snapshot(t.Context(), s.Table, name, time.Now().Add(24*time.Hour)))
	_, err := w.Delete(t.Context(), s)
	must(t, err)
	must(t, w.Snapshot(t.Context(), s.Table, name, time.Now().Add(24*time.Hour))) // stays as it is
	for range 2 {
		if n, err := w.Restore(t.Context(), s, name); err != nil || n != 6 {
			t.Fatalf("%d rows put back, not 6: %v", n, err)
		}
		if n := rows(t, w, s); n != 6 {
			t.Errorf("%d rows, not 6", n)
		}
	}
	other := s
	other.Dates = []backfill.Date{day(t, "2024-01-02"), day(t, "2024-01-04")}
	if n := rows(t, w, other); n != 6 {
		t.Errorf("%d rows of other dates, not 6", n)
	}
}

func noSnapshot(t *testing.T, w warehouse.Warehouse, f Tables) {
	games(t, f, 4)
	s := slice(t, f)
	if _, err := w.Restore(t.Context(), s, f.Name("ref.games_before")); !fault.Is(err, fault.NotFound) {
		t.Errorf("a snapshot that is not there: %v", err)
	}
	if n := rows(t, w, s); n != 6 {
		t.Errorf("%d rows, not 6: something was deleted", n)
	}
}

func billed(t *testing.T, w warehouse.Warehouse, f Tables) {
	f.Jobs(t,
		Job{"a", "sluice@x", "b-1", ten, ten, 1}, Job{"b", "sluice@x", "b-2", ten, ten, 10},
		Job{"c", "processors@x", "", ten, ten, 100}, Job{"d", "processors@x", "b-2", ten, ten, 1000}, Job{"e", "other@x", "", ten, ten, 10_000},
		Job{"f", "processors@x", "", ten.Add(-time.Hour), ten, 100_000}, Job{"g", "processors@x", "", ten.Add(time.Hour), ten, 1_000_000},
	)
	for _, c := range []struct {
		accounts []string
		until    time.Time
		want     int64
	}{{nil, time.Time{}, 1}, {[]string{"processors@x"}, ten.Add(time.Hour), 101}, {[]string{"processors@x", "none@x"}, time.Time{}, 1_000_101}} {
		if n, err := w.Billed(t.Context(), "b-1", c.accounts, ten, c.until); err != nil || n != c.want {
			t.Errorf("%v until %v: %d, not %d: %v", c.accounts, c.until, n, c.want, err)
		}
	}
}

func queue(t *testing.T, w warehouse.Warehouse, f Tables) {
	now := time.Now().Truncate(time.Millisecond)
	f.Jobs(t, Job{ID: "a", Created: now.Add(-40 * time.Second), Started: now.Add(-30 * time.Second)}, Job{ID: "b", Created: now.Add(-20 * time.Second), Started: now.Add(-20 * time.Second)},
		Job{ID: "c", Created: now.Add(-time.Hour), Started: now})
	q, err := w.Queue(t.Context(), now.Add(-time.Minute))
	if err != nil || q.Pending != 0 || q.Wait != 5*time.Second {
		t.Errorf("%+v, not 5 s: %v", q, err)
	}
	f.Jobs(t, Job{ID: "d", Created: now.Add(-20 * time.Second)})
	q, err = w.Queue(t.Context(), now.Add(-time.Minute))
	if err != nil || q.Pending != 1 || q.Wait < 10*time.Second || q.Wait > 30*time.Second {
		t.Errorf("%+v, not one that has waited for 20 s: %v", q, err)
	}
	if q, err = w.Queue(t.Context(), now.Add(time.Minute)); err != nil || q != (warehouse.Queue{}) {
		t.Errorf("%+v without jobs: %v", q, err)
	}
}

// checks runs one check of every kind, on good data and on a date that is bad.
func checks(t *testing.T, w warehouse.Warehouse, f Tables) {
	var rows [][]any
	var parts []backfill.Partition
	for i := range 4 {
		d := day(t, "2024-01-01") + backfill.Date(i)
		parts = append(parts, backfill.Partition{Date: d, Season: fmt.Sprint("s", i/2)})
		for j := range 3 {
			player, points := any(fmt.Sprint("p", j)), any(10+j)
			if i == 3 && j > 0 {
				player, points = nil, any(500)
			}
			rows = append(rows, []any{d.String(), player, fmt.Sprint("p", j), points})
		}
	}
	f.Create(t, "ref.games", "game_date", []string{"game_date", "player", "known", "points_n"}, rows)
	table := f.Name("ref.games")
	bound := func(v float64) *float64 { return &v }
	p := &backfill.Pipeline{Partition: backfill.PartitionSource{Column: "game_date"}, Checks: []backfill.Check{
		{Name: "ratio", Kind: "count_ratio", Over: table + ".known", To: table + ".player", Min: bound(0.9)},
		{Name: "spread", Kind: "distribution", Column: table + ".points_n", HasMean: true, Mean: [2]float64{5, 20}, HasStdDev: true, StdDev: [2]float64{0.9, 1.1}, Min: bound(0), Max: bound(110)},
		{Name: "nulls", Kind: "null_fraction", Columns: []string{table + ".player", table + ".points_n"}, Max: bound(0.01)},
		{Name: "before", Kind: "season_over_season", Table: table, Metrics: []string{"count_dates", "avg(points_n)"}, MaxChange: bound(0.15)},
		{Name: "query", Kind: "sql", Query: "SELECT game_date FROM `" + table + "` WHERE game_date IN (SELECT DATE(d) FROM UNNEST(@dates) AS d) AND points_n > 110", Expect: "no_rows"},
	}}
	s := verify.Settings{Source: w, Pipeline: p, Calendar: func(context.Context) (backfill.Calendar, error) { return backfill.NewCalendar(parts), nil }}
	good, err := s.Run(t.Context(), p.Checks, parts[2:3])
	must(t, err)
	for _, o := range good {
		if o.Result != verify.Passed {
			t.Errorf("good data: %s %s %v", o.Check.Name, o.Detail, o.Failures)
		}
	}
	bad, err := s.Run(t.Context(), p.Checks, parts)
	must(t, err)
	for _, o := range bad {
		want := parts[3].Date.String()
		if o.Check.Name == "before" {
			want = parts[2].Date.String() + ".." + want
		}
		if o.Result != verify.Failed || len(o.Failures) != 1 || o.Failures[0].When() != want {
			t.Errorf("bad data: %s %s %s %+v", o.Check.Name, o.Result, o.Detail, o.Failures)
		}
	}
}
