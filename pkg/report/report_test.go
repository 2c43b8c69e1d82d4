package report

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/backfill"
	pb "sluice.dev/proto/gen/sluice/v1"
)

var began = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// tell makes a report of lines a minute apart.
func tell(t *testing.T, lines ...*pb.BackfillEvent) *pb.Report {
	t.Helper()
	b := New("b")
	for i, e := range lines {
		e.BackfillId, e.Pipeline, e.At = "b", "p", timestamppb.New(began.Add(time.Duration(i)*time.Minute))
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	return b.Report()
}

func activation() *pb.BackfillEvent {
	return &pb.BackfillEvent{Kind: "activated", RequestedBy: "me", Message: "why not", Data: Encode(Activation{
		Request: backfill.Request{ID: "b", BudgetUSD: 5}, Planned: backfill.Planned{P50: time.Hour, P90: 2 * time.Hour, USD: 3},
		Dates:  backfill.NewCalendar([]backfill.Partition{{Date: 1, Season: "a"}, {Date: 2, Season: "b"}}),
		Phases: []Phase{{ID: "one", Processors: 2}, {ID: "two", Processors: 1, Seasons: []string{"b"}}},
	})}
}

func line(kind, date, processor string, attempt int32) *pb.BackfillEvent {
	return &pb.BackfillEvent{Kind: kind, Date: date, Phase: "one", Processor: processor, Attempt: attempt, DurationSeconds: 10, Message: "text of " + kind}
}

const first, second = "1970-01-02", "1970-01-03"

func TestRunsAreCountedByWhatBecameOfThem(t *testing.T) {
	t.Parallel()
	r := tell(t, activation(), &pb.BackfillEvent{Kind: "skipped", Date: first, Phase: "one", Data: `["x"]`},
		line("dispatched", first, "y", 1), line("failed", first, "y", 1), line("dispatched", first, "y", 2), line("succeeded", first, "y", 2),
		line("succeeded", first, "y", 2), // delivered again
		line("dispatched", second, "x", 1), line("rejected", second, "x", 1), line("exhausted", second, "x", 1),
		line("dispatched", second, "y", 1), line("partial", second, "y", 1), line("exhausted", second, "y", 1),
		line("waived", second, "y", 0), &pb.BackfillEvent{Kind: "window_changed", Phase: "one", Message: "HTTP 429"}, &pb.BackfillEvent{Kind: "window_changed", Phase: "one", Message: "calm"},
		&pb.BackfillEvent{Kind: "incomplete", Data: Encode(Ending{Progress: backfill.Progress{Attempts: 5, Throttles: 2, SpendUSD: 1.5}, Budget: 7})},
	)
	one, two := r.GetPhases()[0], r.GetPhases()[1]
	if x := one.GetRuns(); x.GetTotal() != 4 || x.GetSucceeded() != 1 || x.GetSkipped() != 1 || x.GetWaived() != 1 || x.GetExhausted() != 1 || x.GetPending() != 0 || one.GetDatesComplete() != 1 {
		t.Errorf("one: %v", one)
	}
	if x := two.GetRuns(); x.GetTotal() != 1 || x.GetPending() != 1 || two.GetDatesComplete() != 0 {
		t.Errorf("two, which only season b has: %v", two)
	}
	if r.GetState() != "incomplete" || r.GetDates() != 2 || r.GetDatesComplete() != 1 || r.GetRetries() != 3 || r.GetAttempts() != 5 || r.GetBudgetUsd() != 7 || r.GetDurationSeconds() != 16*60 || r.GetPlannedSeconds() != 3600 {
		t.Errorf("%v", r)
	}
	if f := r.GetFailures(); len(f) != 1 || f[0].GetProcessor() != "x" || f[0].GetRetryable() || f[0].GetLastError() != "text of rejected" {
		t.Errorf("failures %v", f)
	}
	if len(r.GetSlowest()) != 1 || r.GetSlowest()[0].GetRuns() != 1 || len(r.GetThrottled()) != 1 || r.GetThrottled()[0].GetTimes() != 1 {
		t.Errorf("slowest %v, throttled %v", r.GetSlowest(), r.GetThrottled())
	}
	text := Markdown(r)
	for _, want := range []string{
		"# Backfill b: incomplete", "asked for by me (why not)", "1 of 2 dates are complete.", "It took 16m0s; 1h0m0s were planned", "Spend: $1.50, $3.00 were expected, the budget was $7.00.",
		"| one | 1 | 4 | 1 | 1 | 1 | 1 | 0 |", "## Failures (1)", "## Waived (1)", "| one | HTTP 429 | 1 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestAPartialSuccessCountsWhereItIsAccepted(t *testing.T) {
	t.Parallel()
	e := line("partial", first, "x", 1)
	e.Data = Accepted
	if r := tell(t, activation(), e); r.GetPhases()[0].GetRuns().GetSucceeded() != 1 || r.GetRetries() != 0 {
		t.Errorf("%v", r)
	}
}

func TestTheNewestVerificationCounts(t *testing.T) {
	t.Parallel()
	check := func(kind, date, message string) *pb.BackfillEvent {
		return &pb.BackfillEvent{Kind: kind, Date: date, Phase: "one", Processor: "check:sane", Message: message, Data: date, Records: 2}
	}
	r := tell(t, activation(), check("check_failed", first, "odd"), check("verified_failed", "", "worst 3"), check("verified_passed", "", "worst 1"))
	if c := r.GetChecks(); len(c) != 1 || c[0].GetResult() != "passed" || c[0].GetDetail() != "worst 1" || !c[0].GetBlocking() {
		t.Errorf("%v", c)
	}
	if f := r.GetFailures(); len(f) != 1 || f[0].GetProcessor() != "check:sane" || f[0].GetDate() != first {
		t.Errorf("a date that is held is a failure: %v", f)
	}
	r = tell(t, activation(), check("check_failed", first, "odd"), check("retried", first, ""), check("check_passed", first, ""))
	if len(r.GetFailures()) != 0 || len(r.GetChecks()) != 1 || r.GetChecks()[0].GetResult() != "passed" {
		t.Errorf("%v", r)
	}
}

func TestAnIdThatIsUsedAgainStartsAnew(t *testing.T) {
	t.Parallel()
	r := tell(t, &pb.BackfillEvent{Kind: "refused", Faults: []string{"no dates"}}, activation(), line("succeeded", first, "x", 1), activation())
	if r.GetState() != "active" || len(r.GetFaults()) != 0 || r.GetPhases()[0].GetRuns().GetSucceeded() != 0 {
		t.Errorf("%v", r)
	}
	if r := tell(t, &pb.BackfillEvent{Kind: "refused", Faults: []string{"no dates"}}); !strings.Contains(Markdown(r), "- refused: no dates") {
		t.Errorf("%v", r)
	}
	if r := tell(t); r != nil {
		t.Errorf("of nothing: %v", r)
	}
}
