package scenario_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/sluice/platform"
)

// withDemo is a hurried demo in which little fails.
func withDemo(t *testing.T, args ...string) *world {
	t.Helper()
	return demo(t, append([]string{"--speed", "400", "--faults", "0.01"}, args...)...)
}

// report is what sluice report says.
func (w *world) report(id string) *pb.Report {
	w.t.Helper()
	m := new(pb.ReportResponse)
	if err := event.Unmarshal([]byte(w.must("report", id, "-o", "json")), m); err != nil {
		w.t.Fatal(err)
	}
	return m.GetReport()
}

func TestDamagedDataAreHeldAndSaid(t *testing.T) {
	t.Parallel()
	w := withDemo(t, "--damage", "half_players")
	w.submit("damaged", 6)
	if a := w.sluice("watch", "damaged"); a.code != 2 {
		t.Fatalf("watch: exit %d\n%s%s", a.code, a.out, a.err)
	}
	s := w.status("damaged")
	for _, ph := range s.Phases {
		if want := map[bool]int{true: 0, false: ph.Runs.Total}[ph.ID == "phase_4_precompute"]; ph.Runs.Succeeded != want {
			t.Errorf("%s: %+v", ph.ID, ph.Runs)
		}
	}
	if len(s.Notices) != 1 || !contains(s.Notices[0], "check players_in_analytics fails for 6 dates") {
		t.Errorf("notices %v", s.Notices)
	}
	dates := w.dates(6)
	a := w.sluice("failures", "damaged")
	for _, d := range dates {
		if !contains(a.out, d+" phase_3_analytics check:players_in_analytics: 1 attempts: ", "blocks "+d+" phase_4_precompute") {
			t.Errorf("failures do not say that %s fails:\n%s", d, a.out)
		}
	}
	a = w.sluice("verify", "damaged")
	if a.code != 2 || !contains(a.out, "players_in_analytics", "points_sane", "are left, and 0.9 is the least", dates[5]) {
		t.Errorf("verify: exit %d\n%s", a.code, a.out)
	}
	if a := w.sluice("verify", "damaged", "--checks", "points_sane"); a.code != 0 || contains(a.out, "players_in_analytics") {
		t.Errorf("one check: exit %d\n%s", a.code, a.out)
	}
	if a := w.sluice("verify", "damaged", "--checks", "nonsense"); a.code != 1 || !contains(a.err, `no check "nonsense"`) {
		t.Errorf("an unknown check: exit %d %s", a.code, a.err)
	}
	// Tried again, the same data fail again; a person may let one date go.
	w.must("retry", "damaged", "--wait")
	if a := w.sluice("watch", "damaged"); a.code != 2 {
		t.Fatalf("watch after the retry: exit %d\n%s", a.code, a.err)
	}
	if a := w.sluice("failures", "damaged"); strings.Count(a.out, ": 2 attempts: ") != 6 {
		t.Errorf("after the retry:\n%s", a.out)
	}
	w.must("waive", "damaged", "--phase", "phase_3_analytics", "--processors", "check:players_in_analytics", "--dates", dates[0], "--reason", "half a day", "--by", "me", "--wait")
	w.sluice("watch", "damaged")
	if s := w.status("damaged"); s.State != "incomplete" || s.Dates.Complete != 1 {
		t.Errorf("after the waiver: %+v", s)
	}
	r := w.report("damaged")
	if len(r.GetWaivers()) != 1 || r.GetWaivers()[0].GetRequestedBy() != "me" || r.GetWaivers()[0].GetReason() != "half a day" || len(r.GetFailures()) != 5 {
		t.Errorf("the report has waivers %v and failures %v", r.GetWaivers(), r.GetFailures())
	}
	if text := w.must("report", "damaged"); !contains(text, "# Backfill damaged: incomplete", "## Waived (1)", "| half a day |", "## Failures (5)", "## Checks", "## Slowest processors") {
		t.Errorf("the report:\n%s", text)
	}
}

// TestTheJournalTellsTheRunWithoutItsDocuments has trouble of every kind, and compares what the report tells from the
// journal with the documents, and with itself once they are gone.
func TestTheJournalTellsTheRunWithoutItsDocuments(t *testing.T) {
	t.Parallel()
	var mended atomic.Bool
	w := newWorld(t, platform.Options{Seed: 5, Faults: platform.Faults{Fail: 0.03, Throttle: 0.01}, Broken: func(processor, date string) bool {
		return (processor == "nbac_play_by_play" && date == "2023-10-26" && !mended.Load()) || processor == "nbap_team_usage" && date == "2023-10-28" || processor == "team_offense_game_summary" && date == "2023-10-30"
	}})
	w.start()
	w.submit("told", 12)
	w.sluice("watch", "told")
	w.must("waive", "told", "--phase", "phase_1_scrape", "--processors", "nbap_team_usage", "--dates", "2023-10-28", "--reason", "no usage that day", "--by", "someone", "--wait")
	mended.Store(true)
	w.must("retry", "told", "--wait")
	w.sluice("watch", "told")
	s := w.status("told")
	if s.State != "incomplete" || s.Dates.Complete == 0 {
		t.Fatalf("%+v", s)
	}
	doc := new(pb.GetResponse)
	if err := event.Unmarshal([]byte(w.must("status", "told", "-o", "json")), doc); err != nil {
		t.Fatal(err)
	}
	var before *pb.Report
	eventually(t, 20*time.Second, "the journal has the end", func() bool {
		before = w.report("told")
		return before.GetState() == "incomplete" && before.GetFinishedAt().AsTime().Equal(doc.GetBackfill().GetFinishedAt().AsTime())
	})
	if int(before.GetDates()) != s.Dates.Total || int(before.GetDatesComplete()) != s.Dates.Complete || int(before.GetAttempts()) != s.Attempts ||
		int(before.GetThrottles()) != s.Throttles || len(before.GetPhases()) != len(s.Phases) {
		t.Errorf("the report has %d of %d dates, %d attempts, %d throttles; the documents %+v", before.GetDatesComplete(), before.GetDates(), before.GetAttempts(), before.GetThrottles(), s)
	}
	for i, ph := range s.Phases {
		got := before.GetPhases()[i]
		if got.GetId() != ph.ID || int(got.GetRuns().GetTotal()) != ph.Runs.Total || int(got.GetRuns().GetSucceeded()) != ph.Runs.Succeeded ||
			int(got.GetRuns().GetExhausted()) != ph.Runs.Exhausted || int(got.GetRuns().GetPending()) != ph.Runs.Pending {
			t.Errorf("the report has %v, the documents %+v", got, ph)
		}
	}
	var failures struct {
		Failures []struct {
			Date, Phase, Processor string
			LastError              string `json:"last_error"`
			Attempts               int32
		}
	}
	if err := json.Unmarshal([]byte(w.sluice("failures", "told", "-o", "json").out), &failures); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, f := range failures.Failures {
		want = append(want, fmt.Sprint(f.Date, f.Phase, f.Processor, f.Attempts, f.LastError))
	}
	for _, f := range before.GetFailures() {
		got = append(got, fmt.Sprint(f.GetDate(), f.GetPhase(), f.GetProcessor(), f.GetAttempts(), f.GetLastError()))
	}
	if len(want) == 0 || !slices.Equal(want, got) {
		t.Errorf("the report has failures %q, the documents %q", got, want)
	}
	if len(before.GetWaivers()) != 1 || before.GetWaivers()[0].GetRequestedBy() != "someone" || before.GetPlannedSeconds() <= 0 || before.GetSpendUsd() <= 0 || len(before.GetSlowest()) != 10 {
		t.Errorf("%v", before)
	}
	w.must("forget", "told", "--wait", "--by", "me")
	if a := w.sluice("status", "told"); a.code == 0 {
		t.Errorf("it is not forgotten:\n%s", a.out)
	}
	var after *pb.Report
	eventually(t, 20*time.Second, "the journal says that it was forgotten", func() bool {
		after = w.report("told")
		return len(after.GetNotes()) == len(before.GetNotes())+2
	})
	after.Notes = before.GetNotes()
	if a, b := fmt.Sprint(before), fmt.Sprint(after); a != b {
		t.Errorf("before it was forgotten the report said\n%s\nand then\n%s", a, b)
	}
	// Its id is free again, and nobody remembers the one that was.
	w.submit("told", 3)
	w.must("watch", "told")
	if s := w.status("told"); s.State != "completed" || s.Dates.Total != 3 {
		t.Errorf("under the same id: %+v", s)
	}
	if r := w.report("told"); r.GetDates() != 3 || len(r.GetWaivers()) != 0 {
		t.Errorf("the report of the new one: %v", r)
	}
}

func TestRollbackAndRerun(t *testing.T) {
	t.Parallel()
	w := withDemo(t)
	w.submit("rolled", 5)
	w.must("watch", "rolled")
	dates := w.dates(5)
	if a := w.sluice("rollback", "rolled", "--phases", "phase_3_analytics"); a.code != 1 || !contains(a.err, "nobody to ask", "--yes") || !contains(a.out, "nba_analytics.player_game_summary") {
		t.Errorf("without --yes: exit %d %s\n%s", a.code, a.err, a.out)
	}
	plan := w.must("rollback", "rolled", "--plan", "--phases", "phase_3_analytics,phase_4_precompute", "--dates", dates[1]+","+dates[2])
	if i, j := strings.Index(plan, "nba_precompute."), strings.Index(plan, "nba_analytics."); i < 0 || j < i || !contains(plan, "for 2 dates", "nba_reference.processor_run_history") {
		t.Errorf("the plan:\n%s", plan)
	}
	w.must("rollback", "rolled", "--yes", "--wait", "--rerun", "--phases", "phase_3_analytics,phase_4_precompute", "--dates", dates[1]+","+dates[2])
	eventually(t, 20*time.Second, "the rerun is there", func() bool { return w.sluice("status", "rolled-rerun-1").code == 0 })
	w.must("watch", "rolled-rerun-1")
	s := w.status("rolled-rerun-1")
	if s.Dates.Total != 2 || len(s.Phases) != 2 || s.Phases[0].Runs.Succeeded != 10 || s.Phases[1].Runs.Succeeded != 10 {
		t.Errorf("the rerun: %+v", s)
	}
	w.must("verify", "rolled-rerun-1")
	w.must("verify", "rolled")
	if a := w.sluice("rollback", "rolled", "--undo", "--yes", "--wait"); a.code != 0 {
		t.Errorf("undo: %s", a.err)
	}
	if text := w.must("report", "rolled"); !contains(text, "## Rolled back", "| restored |") {
		t.Errorf("the report:\n%s", text)
	}
	w.submit("again", 5) // everything is in the history again
	w.must("watch", "again")
	if s := w.status("again"); s.Phases[2].Runs.Succeeded != 0 {
		t.Errorf("what history has was done again: %+v", s)
	}
}

func TestABudgetPausesARun(t *testing.T) {
	t.Parallel()
	w := demo(t, "--faults", "0")
	w.write("budget.json", `{"backfill_id":"dear","pipeline":"nba","dates":{"seasons":["2023-24"]},"budget_usd":0.05}`)
	if a := w.sluice("submit", "-f", w.dir+"/budget.json"); a.code != 1 || !contains(a.err, "budget: ", "and budget_usd is 0.05", "raise the budget") {
		t.Fatalf("a plan above its budget: exit %d %s", a.code, a.err)
	}
	w.write("budget.json", `{"backfill_id":"dear","pipeline":"nba","dates":{"seasons":["2023-24"]},"budget_usd":0.3}`)
	w.must("submit", "-f", w.dir+"/budget.json")
	eventually(t, time.Minute, "it is paused", func() bool { s := w.status("dear").State; return s == "pausing" || s == "paused" })
	s := w.status("dear")
	if len(s.Notices) < 2 || !contains(s.Notices[0], "of budget_usd 0.30 are spent, and about $") || !contains(s.Notices[1], "paused: $0.3", "raise it first") {
		t.Errorf("notices %q", s.Notices)
	}
	if text := w.must("status", "dear"); !contains(text, "of $0.30 (1", "note: paused") {
		t.Errorf("status:\n%s", text)
	}
	if a := w.sluice("resume", "dear"); a.code != 1 || !contains(a.err, "raise it first with sluice limit dear --budget-usd") {
		t.Errorf("resume: exit %d %s", a.code, a.err)
	}
	w.must("limit", "dear", "--budget-usd", "50", "--wait")
	w.must("resume", "dear", "--wait")
	w.must("cancel", "dear", "--wait")
	if text := w.must("report", "dear"); !contains(text, "budget_warning", "control_limit", "the budget was $50.00") {
		t.Errorf("the report:\n%s", text)
	}
}

// TestOutcomesAdoptedFromHistory has a platform whose analytics report nothing: their rows in the history do.
func TestOutcomesAdoptedFromHistory(t *testing.T) {
	t.Parallel()
	w := withDemo(t, "--mute", "phase_3_analytics")
	w.submit("adopted", 4)
	w.must("watch", "adopted")
	if s := w.status("adopted"); s.State != "completed" || s.Phases[2].Runs.Succeeded != 20 {
		t.Errorf("%+v", s)
	}
	if text := w.must("events", "adopted"); !contains(text, "adopted from history: success") {
		t.Errorf("the journal does not say that outcomes were adopted")
	}
}
