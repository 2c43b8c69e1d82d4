// Package warehousetest holds every warehouse to the comments of package warehouse.
package warehousetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Tables fills the tables that a test reads. All columns hold text, except the one with dates, those that end in _at,
// which hold times, and those that end in _n, which hold whole numbers.
type Tables interface {
	// Name is what a table, ref.name, is called in this subtest's warehouse.
	Name(table string) string
	// Create makes a table, ref.name, with rows of a value per column; nil is NULL.
	Create(t *testing.T, table, date string, columns []string, rows [][]any)
	// Jobs makes the statistics of jobs.
	Jobs(t *testing.T, jobs ...Job)
}

// Job is a query as the statistics have it. A zero Started says that it waits.
type Job struct {
	ID       string
	Account  string
	Backfill string // its label; empty for none
	Created  time.Time
	Started  time.Time
	Billed   int64
}

// Run runs the suite. open makes an empty warehouse, apart from those of all other subtests.
func Run(t *testing.T, open func(*testing.T) (warehouse.Warehouse, Tables)) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, warehouse.Warehouse, Tables){
		"a calendar has each date once and in order":  calendar,
		"a long calendar is complete":                 longCalendar,
		"a calendar without seasons":                  noSeasons,
		"names that are not there are named":          missing,
		"names that are no names never reach SQL":     injection,
		"values are never part of SQL":                quotes,
		"history by date and status":                  history,
		"a long history is complete":                  longHistory,
		"durations are percentiles of what succeeded": durations,
		"columns are those that a table has":          columns,
		"runs that have ended lately":                 recorded,
		"runs are written back once":                  record,
		"a query over dates":                          selects,
		"a query that cannot be run":                  badQuery,
		"every kind of check":                         checks,
		"slices are counted and deleted":              cut,
		"a snapshot puts back what was deleted":       snapshot,
		"a snapshot that is gone":                     noSnapshot,
		"bytes billed for a backfill":                 billed,
		"jobs that wait":                              queue,
		"the journal keeps everything, once":          journal,
		"the journal takes many at once":              crowd,
		"an error ends the journal":                   journalError,
		"a context that has ended stops reads":        ended,
		"a closed warehouse fails and closes again":   closed,
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			w, tables := open(t)
			t.Cleanup(func() { _ = w.Close() })
			test(t, w, tables)
		})
	}
}

func source(f Tables) backfill.CalendarTable {
	return backfill.CalendarTable{Table: f.Name("ref.schedule"), Date: "game_date", Season: "season"}
}

func runs(f Tables) backfill.HistorySource {
	return backfill.HistorySource{
		Table: f.Name("ref.history"), Processor: "processor_name", Date: "data_date", Phase: "phase", Status: "status", Succeeded: []string{"success", "ok"},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func day(t *testing.T, s string) backfill.Date {
	t.Helper()
	d, err := backfill.ParseDate(s)
	must(t, err)
	return d
}

func calendar(t *testing.T, w warehouse.Warehouse, tables Tables) {
	tables.Create(t, "ref.schedule", "game_date", []string{"game_id", "game_date", "season"}, [][]any{
		{"3", "2024-01-03", "2023-24"}, {"1", "2024-01-01", "2023-24"}, {"2", "2024-01-01", "2023-24"}, {"4", nil, "2023-24"}, {"5", "2021-01-01", nil},
	})
	got, err := w.Calendar(t.Context(), source(tables))
	must(t, err)
	want := []backfill.Partition{{Date: day(t, "2021-01-01")}, {Date: day(t, "2024-01-01"), Season: "2023-24"}, {Date: day(t, "2024-01-03"), Season: "2023-24"}}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func longCalendar(t *testing.T, w warehouse.Warehouse, tables Tables) {
	const n = 3000 // more than any default page or --max_rows
	rows := make([][]any, n)
	for i := range rows {
		rows[i] = []any{(backfill.Date(i) + 10000).String(), fmt.Sprint(i / 200)}
	}
	tables.Create(t, "ref.schedule", "game_date", []string{"game_date", "season"}, rows)
	got, err := w.Calendar(t.Context(), source(tables))
	must(t, err)
	if len(got) != n || got[0].Date != 10000 || got[n-1] != (backfill.Partition{Date: 10000 + n - 1, Season: "14"}) {
		t.Errorf("%d dates", len(got))
	}
}

func noSeasons(t *testing.T, w warehouse.Warehouse, tables Tables) {
	tables.Create(t, "ref.schedule", "game_date", []string{"game_date"}, [][]any{{"2024-01-01"}})
	got, err := w.Calendar(t.Context(), backfill.CalendarTable{Table: tables.Name("ref.schedule"), Date: "game_date"})
	must(t, err)
	if !slices.Equal(got, []backfill.Partition{{Date: day(t, "2024-01-01")}}) {
		t.Errorf("%v", got)
	}
}

func missing(t *testing.T, w warehouse.Warehouse, tables Tables) {
	tables.Create(t, "ref.schedule", "game_date", []string{"game_date", "season"}, nil)
	none := func(warehouse.Run) {}
	check := func(what string, err error, name string) {
		t.Helper()
		if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := w.Calendar(t.Context(), backfill.CalendarTable{Table: tables.Name("ref.nothing"), Date: "game_date"})
	check("a table", err, tables.Name("ref.nothing"))
	_, err = w.Calendar(t.Context(), backfill.CalendarTable{Table: tables.Name("ref.schedule"), Date: "day"})
	check("a column", err, "day")
	check("a table of history", w.Done(t.Context(), runs(tables), 0, 1, none), tables.Name("ref.history"))
	if got, err := w.Calendar(t.Context(), source(tables)); err != nil || len(got) != 0 {
		t.Errorf("an empty calendar: %v, %v", got, err)
	}
}

func injection(t *testing.T, w warehouse.Warehouse, tables Tables) {
	tables.Create(t, "ref.schedule", "game_date", []string{"game_date", "season"}, [][]any{{"2024-01-01", "s"}})
	for _, bad := range []string{"", "schedule", "ref.schedule; DROP TABLE x", "ref.sche dule", "ref.`x`", `ref."x"`, "ref.schedule--", "ref.schedule)"} {
		if _, err := w.Calendar(t.Context(), backfill.CalendarTable{Table: bad, Date: "game_date"}); !fault.Is(err, fault.Invalid) {
			t.Errorf("table %q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "game_date) FROM x", "a b", "`a`", `"a"`, "a--", "a,b"} {
		if _, err := w.Calendar(t.Context(), backfill.CalendarTable{Table: tables.Name("ref.schedule"), Date: bad}); !fault.Is(err, fault.Invalid) {
			t.Errorf("column %q: %v", bad, err)
		}
		h := runs(tables)
		h.Status = bad
		if err := w.Done(t.Context(), h, 0, 1, func(warehouse.Run) {}); !fault.Is(err, fault.Invalid) {
			t.Errorf("status column %q: %v", bad, err)
		}
	}
}

var historyColumns = []string{"processor_name", "data_date", "phase", "status"}

func done(t *testing.T, w warehouse.Warehouse, h backfill.HistorySource, from, to string) []warehouse.Run {
	t.Helper()
	set := map[warehouse.Run]bool{}
	must(t, w.Done(t.Context(), h, day(t, from), day(t, to), func(r warehouse.Run) { set[r] = true }))
	var out []warehouse.Run
	for r := range set {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b warehouse.Run) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return out
}

func quotes(t *testing.T, w warehouse.Warehouse, tables Tables) {
	odd := `it's "odd"); DROP TABLE x; --`
	tables.Create(t, "ref.history", "data_date", historyColumns, [][]any{{odd, "2024-01-01", "one", odd}, {"b", "2024-01-01", "one", "success"}})
	h := runs(tables)
	h.Succeeded = []string{odd}
	got := done(t, w, h, "2024-01-01", "2024-01-01")
	if len(got) != 1 || got[0].Processor != odd {
		t.Errorf("%v", got)
	}
}

func history(t *testing.T, w warehouse.Warehouse, tables Tables) {
	tables.Create(t, "ref.history", "data_date", historyColumns, [][]any{
		{"a", "2024-01-01", "one", "success"}, {"a", "2024-01-01", "one", "failed"}, {"a", "2024-01-01", "one", "success"},
		{"b", "2024-01-01", "one", "running"}, {"c", "2024-01-02", "two", "ok"}, {"d", "2024-01-02", "two", "partial"},
		{"e", "2023-12-31", "one", "success"}, {"f", "2024-01-03", "one", "success"}, {"g", "2024-01-01", "one", nil},
	})
	got := done(t, w, runs(tables), "2024-01-01", "2024-01-02")
	want := []warehouse.Run{{Date: day(t, "2024-01-01"), Phase: "one", Processor: "a"}, {Date: day(t, "2024-01-02"), Phase: "two", Processor: "c"}}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func longHistory(t *testing.T, w warehouse.Warehouse, tables Tables) {
	var rows [][]any
	for i := range 100 {
		for p := range 52 {
			rows = append(rows, []any{fmt.Sprint("p", p), (backfill.Date(i) + 10000).String(), "one", "success"})
		}
	}
	tables.Create(t, "ref.history", "data_date", historyColumns, rows)
	n := 0
	must(t, w.Done(t.Context(), runs(tables), 10000, 10099, func(warehouse.Run) { n++ }))
	if n < 5200 {
		t.Errorf("%d of 5200 runs", n)
	}
}

func columns(t *testing.T, w warehouse.Warehouse, tables Tables) {
	tables.Create(t, "ref.history", "data_date", historyColumns, nil)
	got, err := w.Columns(t.Context(), tables.Name("ref.history"))
	must(t, err)
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(historyColumns)); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if _, err := w.Columns(t.Context(), tables.Name("ref.nothing")); !fault.Is(err, fault.NotFound) {
		t.Errorf("a table that is not there: %v", err)
	}
	if _, err := w.Columns(t.Context(), "ref.history; DROP TABLE x"); !fault.Is(err, fault.Invalid) {
		t.Errorf("no table: %v", err)
	}
}

func durations(t *testing.T, w warehouse.Warehouse, tables Tables) {
	rows := [][]any{
		{"b", "2024-01-01", "one", "failed", "900"}, {"b", "2023-12-31", "one", "success", "900"}, {"b", "2024-01-01", "one", "success", nil},
		{"b", "2024-01-01", "one", "success", "0"}, {"c", "2024-01-01", "two", "ok", "7.5"}, {"d", "2024-01-01", "two", "success", nil},
	}
	for i := range 10 {
		rows = append(rows, []any{"b", "2024-01-02", "one", "success", fmt.Sprint((i*7)%10 + 1)})
	}
	tables.Create(t, "ref.history", "data_date", append(slices.Clone(historyColumns), "seconds"), rows)
	h := runs(tables)
	if got, err := w.Durations(t.Context(), h, day(t, "2024-01-01"), day(t, "2024-01-02")); err != nil || len(got) != 0 {
		t.Errorf("without a column: %v, %v", got, err)
	}
	h.Duration = "seconds"
	got, err := w.Durations(t.Context(), h, day(t, "2024-01-01"), day(t, "2024-01-02"))
	must(t, err)
	want := []warehouse.Duration{
		{Phase: "one", Processor: "b", Runs: 10, P50: 5, P90: 9}, {Phase: "two", Processor: "c", Runs: 1, P50: 7.5, P90: 7.5},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	h.Duration = "minutes"
	if _, err := w.Durations(t.Context(), h, 0, 1); !fault.Is(err, fault.NotFound) {
		t.Errorf("a column that is not there: %v", err)
	}
}

var epoch = time.Date(2024, 5, 1, 12, 0, 0, 123456000, time.UTC)

func line(id string, second int) *pb.BackfillEvent {
	return &pb.BackfillEvent{
		Id: id, At: timestamppb.New(epoch.Add(time.Duration(second) * time.Second)), BackfillId: "b", Pipeline: "p", Kind: "failed", Date: "2024-01-01",
		Phase: "one", Processor: "x", Attempt: 2, Message: "why", RequestedBy: "me", Records: 5, BytesBilled: 1 << 40, DurationSeconds: 1.5, Faults: []string{"a", "b"},
	}
}

func events(t *testing.T, w warehouse.Warehouse, id string) []*pb.BackfillEvent {
	t.Helper()
	var out []*pb.BackfillEvent
	must(t, w.Events(t.Context(), id, func(e *pb.BackfillEvent) error { out = append(out, e); return nil }))
	return out
}

func journal(t *testing.T, w warehouse.Warehouse, _ Tables) {
	other := line("other", 0)
	other.BackfillId = "c"
	must(t, w.Append(t.Context(), line("3", 3), line("1", 1)))
	must(t, w.Append(t.Context(), line("2", 2), other, line("1", 1)))
	must(t, w.Append(t.Context()))
	got := events(t, w, "b")
	if len(got) != 3 {
		t.Fatalf("%d events", len(got))
	}
	for i, e := range got {
		if want := line(fmt.Sprint(i+1), i+1); !proto.Equal(e, want) {
			t.Errorf("%v became %v", want, e)
		}
	}
	if n := len(events(t, w, "nobody")); n != 0 {
		t.Errorf("%d events of nobody", n)
	}
}

func crowd(t *testing.T, w warehouse.Warehouse, _ Tables) {
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := range 25 {
				if err := w.Append(t.Context(), line(fmt.Sprint(c, "-", i), i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(events(t, w, "b")); n != 100 {
		t.Errorf("%d of 100 events", n)
	}
}

func journalError(t *testing.T, w warehouse.Warehouse, _ Tables) {
	must(t, w.Append(t.Context(), line("1", 1), line("2", 2)))
	enough, calls := errors.New("enough"), 0
	if err := w.Events(t.Context(), "b", func(*pb.BackfillEvent) error { calls++; return enough }); !errors.Is(err, enough) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func ended(t *testing.T, w warehouse.Warehouse, tables Tables) {
	tables.Create(t, "ref.schedule", "game_date", []string{"game_date", "season"}, [][]any{{"2024-01-01", "s"}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Calendar(ctx, source(tables)); err == nil {
		t.Error("Calendar goes on")
	}
	if err := w.Append(ctx, line("1", 1)); err == nil {
		t.Error("Append goes on")
	}
}

func closed(t *testing.T, w warehouse.Warehouse, _ Tables) {
	must(t, w.Close())
	must(t, w.Close())
	if err := w.Append(t.Context(), line("1", 1)); err == nil {
		t.Error("a closed warehouse writes")
	}
}
