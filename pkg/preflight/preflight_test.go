package preflight_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/preflight"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
)

// owners owns one date.
type owners struct{ date backfill.Date }

func (o owners) Owner(_ context.Context, _ string, d backfill.Date) (string, error) {
	if d == o.date {
		return "another", nil
	}
	return "", fault.New(fault.NotFound, "nobody owns %s", d)
}

// topics has what is wrong with them.
type topics []error

func (t topics) Check(context.Context) []error { return t }

const day = backfill.Date(19700)

// setting is a request of a pipeline with one table and one target, in good order.
type setting struct {
	*preflight.Preflight
	p *backfill.Pipeline
	r backfill.Request
}

func good(t *testing.T, url string) *setting {
	t.Helper()
	w, err := sqlitewarehouse.Open(t.Context(), filepath.Join(t.TempDir(), "w.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	if err := w.CreateTable(t.Context(), sqlitewarehouse.Table{Name: "raw.games", Columns: []string{"d", "points"}, Partition: "d"}); err != nil {
		t.Fatal(err)
	}
	cal := backfill.NewCalendar([]backfill.Partition{{Date: day}, {Date: day + 1}})
	p := &backfill.Pipeline{Name: "p", Partition: backfill.PartitionSource{Column: "d", Dates: &cal}, Phases: []backfill.Phase{{
		ID: "one", Trigger: backfill.Trigger{HTTP: &backfill.HTTPTrigger{URL: url + "/run", Health: "/health"}}, Outputs: []string{"raw.games"},
		Processors: []backfill.Processor{{Name: "a", Timeout: time.Hour, Attempts: 5, Backoff: backfill.Backoff{Initial: time.Second, Max: time.Minute}}},
	}}, Checks: []backfill.Check{{Column: "raw.games.points"}}}
	first, last := day, day+1
	return &setting{&preflight.Preflight{
		Planner: &planner.Planner{Pipelines: map[string]*backfill.Pipeline{"p": p}, Warehouse: w}, Owners: owners{}, Topics: topics{},
		Probe: preflight.Prober(nil, time.Millisecond),
	}, p, backfill.Request{ID: "b", Pipeline: "p", Start: &first, End: &last, Order: backfill.OrderOverlap}}
}

// target answers its health path well the third time that it is asked: it takes a moment to start.
func target(t *testing.T) string {
	t.Helper()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := asked.Add(1); r.URL.Path != "/health" || n%3 != 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestEveryCheckFailsForItsOwnReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil  func(*setting)
		check  string
		result preflight.Result
		detail string
	}{
		"in order":         {func(*setting) {}, "budget", preflight.OK, "are expected"},
		"an unknown phase": {func(s *setting) { s.r.Phases = []string{"two"} }, "request", preflight.Failed, "unknown phase"},
		"no dates": {func(s *setting) {
			s.r.Start, s.r.End, s.r.Seasons = nil, nil, []string{"s"}
		}, "calendar", preflight.Failed, "found for season s"},
		"no history": {func(s *setting) {
			s.p.History = &backfill.HistorySource{Table: "raw.games", Processor: "d", Date: "d", Phase: "d", Status: "d", Succeeded: []string{"x"}}
			s.p.History.Table = "raw.runs"
		}, "history", preflight.Failed, "raw.runs"},
		"a table is missing": {func(s *setting) { s.p.Phases[0].Outputs = []string{"raw.nothing"} }, "tables", preflight.Failed, "raw.nothing"},
		"it is elsewhere": {func(s *setting) {
			s.Embedded, s.p.Phases[0].Outputs = true, []string{"raw.nothing"}
		}, "tables", preflight.Skipped, "raw.nothing"},
		"a column is missing": {func(s *setting) {
			s.Embedded, s.p.Checks[0].Column = true, "raw.games.rebounds"
		}, "tables", preflight.Failed, "rebounds"},
		"a target is down":   {func(s *setting) { s.p.Phases[0].Trigger.HTTP.Health = "/other" }, "targets", preflight.Failed, "HTTP 503"},
		"no health path":     {func(s *setting) { s.p.Phases[0].Trigger.HTTP.Health = "" }, "targets", preflight.Skipped, "no health path"},
		"a topic is missing": {func(s *setting) { s.Topics = topics{errors.New("there is no topic x")} }, "topics", preflight.Failed, "topic x"},
		"a date is taken":    {func(s *setting) { s.Owners = owners{day} }, "dates", preflight.Failed, "another"},
		"the budget is too low": {func(s *setting) {
			s.r.BudgetUSD, s.p.Phases[0].Processors[0].Expect.Bytes = 1, 1<<42
		}, "budget", preflight.Failed, "budget_usd is 1.00"},
		"it has too little time": {func(s *setting) {
			s.p.Phases[0].Processors[0].Timeout, s.p.Phases[0].Processors[0].Expect = time.Second, backfill.Expect{P50: time.Minute, P90: time.Minute}
		}, "timeouts", preflight.Failed, "one/a takes 60s in half of the cases and may take 1s"},
		"a guess is no reason": {func(s *setting) { s.p.Phases[0].Processors[0].Timeout = time.Second }, "timeouts", preflight.OK, "as far as is known"},
		"the quota is too low": {func(s *setting) {
			s.p.Limiters = map[string]backfill.Limiter{"api": {Rate: 5, PerDay: 1}}
			s.p.Phases[0].Processors[0].Limiter = "api"
		}, "quota", preflight.Failed, "2 calls a day are expected of api"},
		"too much for BigQuery": {func(s *setting) { s.p.Phases[0].Processors[0].Expect.Bytes = 300 << 40 }, "quota", preflight.Failed, "600 TiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := good(t, target(t))
			c.spoil(s)
			checked, err := s.Request(t.Context(), s.r, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			got := checked.Findings
			found := false
			for _, x := range got {
				expected := x.Check == c.check && x.Result == c.result && strings.Contains(x.Detail, c.detail)
				found = found || expected
				if x.Result == preflight.Failed && !expected && (name != "no history" || x.Check != "tables") {
					t.Errorf("fails too: %s", x)
				}
			}
			if failed := preflight.Faults(got) != nil; !found || failed != (c.result == preflight.Failed) {
				t.Errorf("%s is not %s: %v", c.check, c.result, got)
			}
			for _, check := range []string{"request", "calendar", "tables", "targets", "topics", "dates", "quota", "timeouts", "budget"} {
				if !slices.ContainsFunc(got, func(x preflight.Finding) bool { return x.Check == check }) {
					t.Errorf("%s was not looked at", check)
				}
			}
		})
	}
}
