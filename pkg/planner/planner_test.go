package planner_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

var now = time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)

func season(s ...string) *pb.DateSelection { return &pb.DateSelection{Seasons: s} }

func TestCheckListsEveryFault(t *testing.T) {
	t.Parallel()
	budget := -1.0
	_, err := planner.Check(&pb.BackfillRequested{
		BackfillId: "Bad_ID", Order: "random", ValidateFirst: -1, BudgetUsd: &budget, OnExhausted: "explode",
		Dates:  &pb.DateSelection{Range: &pb.DateRange{Start: "yesterday", End: "2024-02-30"}, List: []string{"2024-01-01"}},
		Limits: map[string]*pb.PhaseLimits{"one": {MaxDates: -1}}, AcceptGaps: []string{"2024-01-01..soon"},
	})
	got := strings.Join(fault.Faults(err), "\n")
	for _, want := range []string{
		`backfill_id "Bad_ID"`, "pipeline is missing", `order "random"`, "validate_first is -1", "budget_usd is -1", `on_exhausted "explode"`,
		`dates.range.start: "yesterday"`, `dates.range.end: "2024-02-30"`, "exactly one of", "limits.one must not be negative", `accept_gaps: "soon"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}

func TestCheckFillsIn(t *testing.T) {
	t.Parallel()
	r, err := planner.Check(&pb.BackfillRequested{
		Pipeline: "p", Dates: &pb.DateSelection{List: []string{"2024-01-02", "2024-01-01", "2024-01-02"}}, OnExhausted: "pause", AcceptGaps: []string{"2024-01-01"},
	})
	if err != nil || r.Order != backfill.OrderOverlap || len(r.List) != 2 || r.List[0] > r.List[1] || !r.PauseOnFail || len(r.AcceptGaps) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	a, err := planner.Check(&pb.BackfillRequested{Pipeline: "p", Dates: season("x"), Reason: "one", RequestedBy: "me"})
	if err != nil {
		t.Fatal(err)
	}
	b := a
	b.Reason, b.RequestedBy, b.Phases = "two", "you", []string{}
	if !planner.Same(a, b) {
		t.Error("who asks and why makes another request")
	}
	b.Force = true
	if planner.Same(a, b) {
		t.Error("another request is the same")
	}
}

func TestCheckControl(t *testing.T) {
	t.Parallel()
	for action, want := range map[string]string{
		"": "action is missing", "explode": `action "explode"`, "waive": "waive needs dates, phase, processors and reason", "pause": "",
	} {
		err := planner.CheckControl(&pb.BackfillControlled{BackfillId: "b", Action: action})
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", action, err)
		}
	}
	err := planner.CheckControl(&pb.BackfillControlled{Action: "retry", Dates: []string{"soon"}})
	if len(fault.Faults(err)) != 2 {
		t.Errorf("%v", err)
	}
}

// pipeline: one, then two with a window of three days, then three for season new only.
func pipeline() *backfill.Pipeline {
	return &backfill.Pipeline{
		Name:      "p",
		Partition: backfill.PartitionSource{Column: "game_date", Table: &backfill.CalendarTable{Table: "ref.schedule", Date: "game_date", Season: "season"}},
		History:   &backfill.HistorySource{Table: "ref.history", Processor: "proc", Date: "day", Phase: "phase", Status: "status", Succeeded: []string{"ok"}},
		Phases: []backfill.Phase{
			{ID: "one", MaxDates: 5, Processors: []backfill.Processor{{Name: "a"}, {Name: "b"}}},
			{ID: "two", After: []string{"one"}, Processors: []backfill.Processor{{Name: "c", Windows: []backfill.Window{{Phase: "one", Days: 3}}}}},
			{ID: "three", After: []string{"two"}, Seasons: []string{"new"}, Processors: []backfill.Processor{{Name: "d"}}},
		},
	}
}

// plans makes a planner over a schedule of 2024-01-01 to 2024-01-20 (old, and new from the 11th) and history.
func plans(t *testing.T, history ...[]any) *planner.Planner {
	t.Helper()
	w, err := sqlitewarehouse.Open(t.Context(), filepath.Join(t.TempDir(), "w.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	var days [][]any
	for d := date(t, "2024-01-01"); d <= date(t, "2024-01-20"); d++ {
		s := "old"
		if d > date(t, "2024-01-10") {
			s = "new"
		}
		days = append(days, []any{d.String(), s})
	}
	for tab, rows := range map[*sqlitewarehouse.Table][][]any{
		{Name: "ref.schedule", Columns: []string{"game_date", "season"}, Partition: "game_date"}:     days,
		{Name: "ref.history", Columns: []string{"proc", "day", "phase", "status"}, Partition: "day"}: history,
	} {
		if err := w.CreateTable(t.Context(), *tab); err != nil {
			t.Fatal(err)
		}
		if err := w.Insert(t.Context(), *tab, rows); err != nil {
			t.Fatal(err)
		}
	}
	return &planner.Planner{Pipelines: map[string]*backfill.Pipeline{"p": pipeline()}, Warehouse: w}
}

func date(t *testing.T, s string) backfill.Date {
	t.Helper()
	d, err := backfill.ParseDate(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func plan(p *planner.Planner, m *pb.BackfillRequested) (*planner.Plan, error) {
	m.Pipeline = "p"
	r, err := planner.Check(m)
	if err != nil {
		return nil, err
	}
	return p.Plan(context.Background(), r, now)
}

func TestPlanResolvesDates(t *testing.T) {
	t.Parallel()
	p := plans(t)
	for name, c := range map[string]struct {
		dates *pb.DateSelection
		want  int
		fault string
	}{
		"a season":            {season("old"), 10, ""},
		"two seasons":         {season("new", "old"), 20, ""},
		"a list":              {&pb.DateSelection{List: []string{"2024-01-01", "2024-01-02"}}, 2, ""},
		"a range past an end": {&pb.DateSelection{Range: &pb.DateRange{Start: "2023-12-01", End: "2024-01-03"}}, 3, ""},
		"an empty season":     {season("2019-20"), 0, "no game dates found for season 2019-20 in ref.schedule"},
		"an empty range":      {&pb.DateSelection{Range: &pb.DateRange{Start: "2020-01-01", End: "2020-02-01"}}, 0, "no game dates found from 2020-01-01 to 2020-02-01 in ref.schedule"},
		"a day off":           {&pb.DateSelection{List: []string{"2024-01-01", "2024-02-01"}}, 0, "2024-02-01 is no game date in ref.schedule"},
	} {
		got, err := plan(p, &pb.BackfillRequested{Dates: c.dates})
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) || !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || got.Backfill.Dates.Len() != c.want || len(got.Records) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlanSkipsWhatHistoryHas(t *testing.T) {
	t.Parallel()
	p := plans(t, []any{"a", "2024-01-01", "one", "ok"}, []any{"b", "2024-01-01", "one", "ok"}, []any{"a", "2024-01-02", "one", "ok"},
		[]any{"b", "2024-01-02", "one", "running"}, []any{"c", "2024-01-02", "one", "ok"})
	for _, force := range []bool{false, true} {
		got, err := plan(p, &pb.BackfillRequested{Dates: season("old"), Force: force})
		if err != nil {
			t.Fatal(err)
		}
		scope := backfill.NewScope(got.Backfill, got.Pipeline)
		one, _ := got.Pipeline.Phase("one")
		first, second := scope.Tally(&got.Records[0], one), scope.Tally(&got.Records[1], one)
		if want := map[bool][2]int{false: {2, 1}, true: {0, 0}}[force]; first.Skipped != want[0] || second.Skipped != want[1] {
			t.Errorf("force %t: %+v %+v", force, first, second)
		}
		if scope.Complete(&got.Records[0], "one") == force {
			t.Errorf("force %t: complete", force)
		}
	}
}

func TestPlanRefusesGaps(t *testing.T) {
	t.Parallel()
	p := plans(t, []any{"a", "2024-01-10", "one", "ok"}, []any{"b", "2024-01-10", "one", "ok"})
	// The new season's window reaches 2024-01-08 to 10, of which history has the 10th.
	_, err := plan(p, &pb.BackfillRequested{Dates: season("new")})
	if err == nil || !strings.Contains(err.Error(), "one is needed but not complete in history for 2 dates (2024-01-08..2024-01-09)") {
		t.Errorf("%v", err)
	}
	if _, err := plan(p, &pb.BackfillRequested{Dates: season("new"), AcceptGaps: []string{"2024-01-08..2024-01-09"}}); err != nil {
		t.Error(err)
	}
	// A phase left out must be in history for the date itself.
	_, err = plan(p, &pb.BackfillRequested{Dates: &pb.DateSelection{List: []string{"2024-01-01"}}, Phases: []string{"two"}})
	if err == nil || !strings.Contains(err.Error(), "one is needed but not complete in history for 1 dates (2024-01-01)") {
		t.Errorf("%v", err)
	}
}

func TestPlanRefusesWhatThePipelineDoesNotHave(t *testing.T) {
	t.Parallel()
	p := plans(t)
	_, err := plan(p, &pb.BackfillRequested{Dates: season("old"), Phases: []string{"nine"}, Limits: map[string]*pb.PhaseLimits{"one": {MaxDates: 6}, "ten": {}}})
	got := strings.Join(fault.Faults(err), "\n")
	for _, want := range []string{`unknown phase "nine": pipeline p has one, two, three`, "may only lower the pipeline's 5", `unknown phase "ten"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	r, err := planner.Check(&pb.BackfillRequested{Pipeline: "q", Dates: season("old")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Plan(t.Context(), r, now); err == nil || !strings.Contains(err.Error(), `unknown pipeline "q": known here are p`) {
		t.Errorf("%v", err)
	}
}

func TestPlanWithoutATable(t *testing.T) {
	t.Parallel()
	p := plans(t)
	p.Pipelines["p"].Partition.Table.Table = "ref.nothing"
	if _, err := plan(p, &pb.BackfillRequested{Dates: season("old")}); err == nil || !strings.Contains(err.Error(), "the calendar cannot be read: there is no table ref.nothing") {
		t.Errorf("%v", err)
	}
	from := date(t, "2024-04-01")
	p.Pipelines["p"].Partition = backfill.PartitionSource{DailyFrom: &from}
	got, err := plan(p, &pb.BackfillRequested{Dates: &pb.DateSelection{Range: &pb.DateRange{Start: "2024-04-20", End: "2024-06-01"}}, AcceptGaps: []string{"2024-04-01..2024-04-30"}})
	if err != nil || got.Backfill.Dates.Len() != 11 { // up to yesterday
		t.Errorf("%v", err)
	}
}

func TestPartialRunsAreDoneOnlyWhereTheyAreAccepted(t *testing.T) {
	t.Parallel()
	p := plans(t, []any{"a", "2024-01-01", "one", "half"}, []any{"b", "2024-01-01", "one", "half"})
	pl := p.Pipelines["p"]
	pl.History.Partial = []string{"half"}
	one, _ := pl.Phase("one")
	one.Processors[1].AcceptPartial = true
	got, err := plan(p, &pb.BackfillRequested{Dates: season("old")})
	if err != nil {
		t.Fatal(err)
	}
	scope := backfill.NewScope(got.Backfill, got.Pipeline)
	if tally := scope.Tally(&got.Records[0], one); tally.Skipped != 1 || !got.Records[0].Has(backfill.Key{Phase: "one", Processor: one.Processors[1].Name, Kind: backfill.Skipped}) {
		t.Errorf("%+v", tally)
	}
}
