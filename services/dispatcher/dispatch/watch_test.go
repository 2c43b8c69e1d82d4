package dispatch

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state/sqlitestate"
	"sluice.dev/pkg/warehouse"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// box keeps what is published.
type box struct {
	mu   sync.Mutex
	sent map[string][]*event.Event
}

func (b *box) Publish(_ context.Context, topic string, events ...*event.Event) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sent == nil {
		b.sent = map[string][]*event.Event{}
	}
	b.sent[topic] = append(b.sent[topic], events...)
	return nil
}

// watched is a dispatcher that drives backfill b of pipeline p, with a warehouse.
type watched struct {
	*Dispatcher
	t     *testing.T
	store *sqlitestate.Store
	w     *sqlitewarehouse.Warehouse
	sent  *box
	now   time.Time
}

const firstDay = backfill.Date(19700)

func watch(t *testing.T, p *backfill.Pipeline, facts ...backfill.Fact) *watched {
	t.Helper()
	w, err := sqlitewarehouse.Open(t.Context(), filepath.Join(t.TempDir(), "w.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	x := &watched{t: t, store: openStore(t), w: w, sent: &box{}, now: time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)}
	o := options(x.store, "me", func() time.Time { return x.now })
	o.Bus, o.Before.Planner.Warehouse = x.sent, w
	o.Before.Planner.Pipelines = map[string]*backfill.Pipeline{p.Name: p}
	x.Dispatcher = New(o)
	active(t, x.store, "b", p, x.now, firstDay, facts...)
	if err := x.take(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *watched) backfill() *backfill.Backfill {
	x.t.Helper()
	b, err := x.store.Backfill(x.t.Context(), "b")
	if err != nil {
		x.t.Fatal(err)
	}
	return b
}

func (x *watched) control(m *pb.BackfillControlled) {
	x.t.Helper()
	m.BackfillId = "b"
	x.now = x.now.Add(time.Second)
	if err := x.onControl(x.t.Context(), event.New(event.TypeControlled, "//test", "b", x.now, m, x.now.String())); err != nil {
		x.t.Fatal(err)
	}
}

// billed has the processors' account billed.
func (x *watched) billed(tebibytes float64) {
	x.t.Helper()
	err := x.w.AddJobs(x.t.Context(), sqlitewarehouse.Job{ID: "j", Account: "a@x", Created: x.now.Add(time.Second), Started: x.now, Billed: int64(tebibytes * (1 << 40))})
	if err == nil {
		err = x.budget(x.t.Context(), x.drive("b"))
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *watched) kinds() []string {
	x.journal.flush(x.t.Context())
	var out []string
	for _, e := range x.sent.sent[event.TopicEvents] {
		out = append(out, e.Data.(*pb.BackfillEvent).GetKind())
	}
	return out
}

func TestABudgetWarnsAndPauses(t *testing.T) {
	t.Parallel()
	p := small("p")
	p.BigQuery.ServiceAccounts = []string{"a@x"}
	x := watch(t, p)
	if _, err := x.store.UpdateBackfill(t.Context(), "b", 0, func(b *backfill.Backfill) error { b.Budget.USD = 10; return nil }); err != nil {
		t.Fatal(err)
	}
	x.billed(1) // $6.25
	if b := x.backfill(); b.Budget.Warned || b.State != backfill.StateActive || len(b.Notices) != 0 {
		t.Errorf("at 62 %%: %+v %v", b.Budget, b.Notices)
	}
	for range 2 { // it is said once
		x.billed(1.3)
	}
	if b := x.backfill(); !b.Budget.Warned || b.State != backfill.StateActive || len(b.Notices) != 1 || !strings.Contains(b.Notices[0], "$8.12 of budget_usd 10.00 are spent") {
		t.Errorf("at 81 %%: %+v %v", b.Budget, b.Notices)
	}
	x.billed(1.61)
	b := x.backfill()
	if b.State != backfill.StatePausing || !strings.Contains(b.Notices[len(b.Notices)-1], "paused: $10.06 of budget_usd 10.00 are spent: raise it first") {
		t.Errorf("at 100 %%: %s %v", b.State, b.Notices)
	}
	x.flush(t.Context(), x.drive("b"))
	if b := x.backfill(); b.Progress.SpendUSD < 10 || len(b.Progress.Spend) == 0 {
		t.Errorf("the document says that $%v are spent", b.Progress.SpendUSD)
	}
	x.control(&pb.BackfillControlled{Action: "resume"})
	if b := x.backfill(); b.State != backfill.StatePausing || !strings.Contains(b.Notices[len(b.Notices)-1], "resume has no effect: $10.06") {
		t.Errorf("resumed over budget: %s %v", b.State, b.Notices)
	}
	more := 20.0
	x.control(&pb.BackfillControlled{Action: "limit", BudgetUsd: &more})
	x.control(&pb.BackfillControlled{Action: "resume"})
	x.billed(1.61)
	if b := x.backfill(); b.State != backfill.StateActive || b.Budget.USD != 20 || b.Budget.Warned {
		t.Errorf("with a larger budget: %s %+v", b.State, b.Budget)
	}
	if kinds := x.kinds(); !slices.Contains(kinds, "budget_warning") || !slices.Contains(kinds, "pausing") {
		t.Errorf("the journal has %v", kinds)
	}
}

func TestWithoutStatisticsWhatProcessorsReportCounts(t *testing.T) {
	t.Parallel()
	x := watch(t, small("p"))
	news := &pb.PhaseProgressed{
		BackfillId: "b", Pipeline: "p", Date: firstDay.String(), Phase: "one", Processor: "a", Attempt: 1, Status: "succeeded", Facts: 9,
		Tally: &pb.Tally{Total: 1, Succeeded: 1}, DurationSeconds: 1000, BytesBilled: 1 << 40,
	}
	if err := x.onProgress(t.Context(), event.New(event.TypeProgressed, "//test", "b", x.now, news)); err != nil {
		t.Fatal(err)
	}
	if err := x.budget(t.Context(), x.drive("b")); err != nil {
		t.Fatal(err)
	}
	x.flush(t.Context(), x.drive("b"))
	// $6.25 for a TiB, and 1000 s of one vCPU and half a GiB.
	if p := x.backfill().Progress; p.SpendUSD < 6.25+0.024+0.00125 || p.SpendUSD > 6.2764 || p.BytesReported != 1<<40 || p.BusySeconds != 1000 {
		t.Errorf("$%v, %+v", p.SpendUSD, p)
	}
}

func TestSlotPressureShrinksTheWindowsOfWhatUsesTheWarehouse(t *testing.T) {
	t.Parallel()
	p := small("p")
	p.BigQuery = backfill.BigQuery{PendingJobs: 2, Queue: 10 * time.Second}
	p.Phases = append(p.Phases, backfill.Phase{ID: "two", MaxProcessors: 40, Outputs: []string{"raw.t"}, Processors: []backfill.Processor{{Name: "x"}}})
	p.Phases[0].MaxProcessors = 40
	x := watch(t, p)
	x.now = time.Now()
	jobs := func(n int, created, started time.Time) {
		for i := range n {
			if err := x.w.AddJobs(t.Context(), sqlitewarehouse.Job{ID: fmt.Sprint("j", i), Created: created, Started: started}); err != nil {
				t.Fatal(err)
			}
		}
	}
	changes := func() []backfill.WindowChange {
		x.pressure(t.Context())
		return x.sched.Changes()
	}
	jobs(3, x.now.Add(-5*time.Second), x.now.Add(-4*time.Second))
	if got := changes(); len(got) != 0 {
		t.Errorf("nothing waits: %+v", got)
	}
	jobs(3, x.now.Add(-5*time.Second), time.Time{})
	if got := changes(); len(got) != 1 || got[0].Phase != "two" || got[0].Limit != 20 || got[0].Reason != "3 BigQuery jobs wait for slots, more than 2" {
		t.Errorf("three wait: %+v", got)
	}
	x.now = x.now.Add(time.Second)
	jobs(3, x.now.Add(-50*time.Second), x.now.Add(-20*time.Second))
	if got := changes(); len(got) != 1 || got[0].Limit != 10 || !strings.Contains(got[0].Reason, "wait 30s for slots, longer than 10s") {
		t.Errorf("they waited long: %+v", got)
	}
}

// adopted is a pipeline whose only phase reports nothing, with its history.
func adopted(t *testing.T, trigger backfill.Trigger) *backfill.Pipeline {
	t.Helper()
	p := small("p")
	p.Phases[0].Adopt, p.Phases[0].Trigger = true, trigger
	p.Phases[0].Processors = []backfill.Processor{{Name: "a", Timeout: time.Hour, Attempts: 3}, {Name: "b", Timeout: time.Hour, Attempts: 3}, {Name: "c", Timeout: time.Hour, Attempts: 3}}
	p.History = &backfill.HistorySource{
		Table: "ref.runs", Processor: "processor", Date: "day", Phase: "phase", Status: "status", Succeeded: []string{"ok"}, Failed: []string{"bad"},
		RunID: "id", Started: "started", Finished: "finished", Records: "n",
	}
	return p
}

var runsTable = sqlitewarehouse.Table{Name: "ref.runs", Columns: []string{"processor", "day", "phase", "status", "id", "started", "finished", "n"}, Partition: "day"}

func TestOutcomesAreAdoptedFromTheHistory(t *testing.T) {
	t.Parallel()
	dispatched := func(name string, attempt int, at time.Time) backfill.Fact {
		return backfill.Fact{Key: backfill.Key{Phase: "one", Processor: name, Attempt: attempt, Kind: backfill.Dispatched}, Value: backfill.Value{At: at}}
	}
	began := time.Date(2024, 5, 1, 12, 10, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		trigger backfill.Trigger
		want    []string
	}{
		// What ended before its call was made is an older run's; a phase that the platform starts may be ahead of us.
		"we call it":             {backfill.Trigger{HTTP: &backfill.HTTPTrigger{URL: "http://127.0.0.1:1/", Async: true}}, []string{"b 2 failed"}},
		"the platform starts it": {backfill.Trigger{}, []string{"a 1 succeeded", "b 2 failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failed := backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "b", Attempt: 1, Kind: backfill.Failed}, Value: backfill.Value{At: began.Add(-time.Minute)}}
			x := watch(t, adopted(t, c.trigger), dispatched("a", 1, began), dispatched("b", 1, began.Add(-2*time.Minute)), failed, dispatched("b", 2, began), dispatched("c", 1, began))
			if err := x.w.CreateTable(t.Context(), runsTable); err != nil {
				t.Fatal(err)
			}
			row := func(processor, status string, minutes int) []any {
				return []any{processor, firstDay.String(), "one", status, processor, nil, began.Add(time.Duration(minutes) * time.Minute).Format(time.RFC3339), 7}
			}
			if err := x.w.Insert(t.Context(), runsTable, [][]any{
				row("a", "ok", -5), row("a", "ok", -60), row("b", "bad", -1), row("b", "bad", 2), row("c", "running", 3), row("d", "ok", 3),
			}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // told again it has the same id
				if err := x.learnOutcomes(t.Context(), x.drive("b")); err != nil {
					t.Fatal(err)
				}
			}
			ids := map[string]string{}
			for _, e := range x.sent.sent[event.TopicCompletions] {
				m := e.Data.(*pb.ProcessorCompleted)
				if m.GetRecords() != 7 {
					t.Errorf("%+v", m)
				}
				ids[e.ID] = fmt.Sprintf("%s %d %s", m.GetProcessor(), m.GetAttempt(), m.GetStatus())
			}
			var got []string
			for _, what := range ids {
				got = append(got, what)
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("reported %v, want %v", got, c.want)
			}
		})
	}
}

func TestRunsAreWrittenBack(t *testing.T) {
	t.Parallel()
	p := adopted(t, backfill.Trigger{HTTP: &backfill.HTTPTrigger{URL: "http://127.0.0.1:1/"}})
	p.Phases[0].Adopt, p.History.Write = false, true
	at := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	fact := func(name string, attempt int, k backfill.Kind, minutes int) backfill.Fact {
		return backfill.Fact{Key: backfill.Key{Phase: "one", Processor: name, Attempt: attempt, Kind: k}, Value: backfill.Value{At: at.Add(time.Duration(minutes) * time.Minute), Records: 5}}
	}
	x := watch(t, p, fact("a", 1, backfill.Dispatched, 0), fact("a", 1, backfill.Failed, 1), fact("a", 2, backfill.Dispatched, 2), fact("a", 2, backfill.Succeeded, 4),
		fact("b", 0, backfill.Skipped, 0), fact("c", 1, backfill.Succeeded, 3))
	dr := x.drive("b")
	if err := x.end(t.Context(), dr, backfill.StateCompleted, nil); !fault.Is(err, fault.NotFound) || x.backfill().State != backfill.StateActive {
		t.Fatalf("without the table the end must wait: %v, %s", err, x.backfill().State)
	}
	if err := x.w.CreateTable(t.Context(), runsTable); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again changes nothing
		if err := x.writeBack(t.Context(), dr); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.end(t.Context(), dr, backfill.StateCompleted, nil); err != nil || x.backfill().State != backfill.StateCompleted {
		t.Fatal(err)
	}
	got := map[string]string{}
	err := x.w.Recorded(t.Context(), *p.History, firstDay, firstDay, time.Time{}, func(r warehouse.Recorded) {
		got[r.ID] = fmt.Sprintf("%s %s %d %s", r.Processor, r.Status, r.Records, r.Finished.Sub(r.Started))
	})
	want := map[string]string{
		"b/2023-12-09/one/a/1": "a bad 5 1m0s", "b/2023-12-09/one/a/2": "a ok 5 2m0s", "b/2023-12-09/one/c/1": "c ok 5 0s",
	}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v: %v", got, want, err)
	}
}

func TestNothingHappensWhenPreflightFails(t *testing.T) {
	t.Parallel()
	cal := backfill.NewCalendar([]backfill.Partition{{Date: firstDay + 5}})
	p := small("p")
	p.Partition.Dates, p.Phases[0].Outputs = &cal, []string{"raw.missing"}
	p.Phases[0].Processors[0].Attempts = 1
	x := watch(t, p)
	m := &pb.BackfillRequested{BackfillId: "new", Pipeline: "p", Dates: &pb.DateSelection{List: []string{(firstDay + 5).String()}}}
	if err := x.onRequest(t.Context(), event.New(event.TypeRequested, "//test", "new", x.now, m)); err != nil {
		t.Fatal(err)
	}
	b, err := x.store.Backfill(t.Context(), "new")
	if err != nil || b.State != backfill.StateRefused || len(b.Faults) != 1 || b.Faults[0] != "tables: there is no table raw.missing: create it, or mend the pipeline file" {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := x.store.Owner(t.Context(), "p", firstDay+5); !fault.Is(err, fault.NotFound) {
		t.Errorf("its date is owned: %v", err)
	}
	_ = x.w.Close() // what may go away by itself is no reason to refuse
	m.BackfillId = "later"
	err = x.onRequest(t.Context(), event.New(event.TypeRequested, "//test", "later", x.now, m))
	if _, there := x.store.Backfill(t.Context(), "later"); err == nil || !fault.Retryable(err) || !fault.Is(there, fault.NotFound) {
		t.Errorf("with a warehouse that does not answer: %v, %v", err, there)
	}
}

func TestForgetAndRelease(t *testing.T) {
	t.Parallel()
	x := watch(t, small("p"))
	x.control(&pb.BackfillControlled{Action: "forget"})
	if b := x.backfill(); len(b.Notices) != 1 || b.Notices[0] != "forget has no effect on a backfill that is active" {
		t.Errorf("forgotten while active: %+v", b)
	}
	if err := x.store.Claim(t.Context(), "p", "b", []backfill.Date{firstDay, firstDay + 1}); err != nil {
		t.Fatal(err)
	}
	x.Keep = time.Hour
	if err := x.end(t.Context(), x.drive("b"), backfill.StateCompleted, nil); err != nil {
		t.Fatal(err)
	}
	if b := x.backfill(); !b.ExpiresAt.Equal(x.now.Add(time.Hour)) {
		t.Errorf("it expires at %s", b.ExpiresAt)
	}
	if err := x.store.Claim(t.Context(), "p", "b", []backfill.Date{firstDay + 1}); err != nil {
		t.Fatal(err)
	}
	x.control(&pb.BackfillControlled{Action: "release"})
	if _, err := x.store.Owner(t.Context(), "p", firstDay+1); !fault.Is(err, fault.NotFound) {
		t.Errorf("after release a date is owned: %v", err)
	}
	x.control(&pb.BackfillControlled{Action: "forget"})
	if _, err := x.store.Backfill(t.Context(), "b"); !fault.Is(err, fault.NotFound) {
		t.Errorf("it is still there: %v", err)
	}
	if kinds := x.kinds(); !slices.Contains(kinds, "forgotten") {
		t.Errorf("the journal has %v", kinds)
	}
}

func TestOldDocumentsArePurged(t *testing.T) {
	t.Parallel()
	x := watch(t, small("p"))
	x.Keep = time.Hour
	if err := x.end(t.Context(), x.drive("b"), backfill.StateCompleted, nil); err != nil {
		t.Fatal(err)
	}
	x.purge(t.Context(), x.now.Add(59*time.Minute))
	x.backfill()
	x.purge(t.Context(), x.now.Add(61*time.Minute))
	if _, err := x.store.Backfill(t.Context(), "b"); !fault.Is(err, fault.NotFound) {
		t.Errorf("it is still there: %v", err)
	}
}
