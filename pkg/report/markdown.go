package report

import (
	"fmt"
	"strings"
	"time"

	pb "sluice.dev/proto/gen/sluice/v1"
)

// shown bounds how many lines of a long list a report shows; it says how many there are.
const shown = 50

// doc is a Markdown document in the making.
type doc struct{ strings.Builder }

func (d *doc) linef(format string, args ...any) { _, _ = fmt.Fprintf(&d.Builder, format+"\n", args...) }

// table writes a table; cells may not break it.
func (d *doc) table(title string, head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	d.linef("\n## %s\n", title)
	d.linef("| %s |", strings.Join(head, " | "))
	d.linef("|%s", strings.Repeat(" --- |", len(head)))
	for _, row := range rows[:min(shown, len(rows))] {
		for i := range row {
			row[i] = strings.NewReplacer("|", `\|`, "\n", " ").Replace(row[i])
		}
		d.linef("| %s |", strings.Join(row, " | "))
	}
	if more := len(rows) - shown; more > 0 {
		d.linef("\n… and %d more.", more)
	}
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func number(n int32) string { return fmt.Sprint(n) }

// Markdown writes a report for people.
func Markdown(r *pb.Report) string {
	d := &doc{}
	d.linef("# Backfill %s: %s\n", r.GetBackfillId(), r.GetState())
	d.linef("Pipeline %s, asked for by %s%s on %s.", r.GetPipeline(), or(r.GetRequestedBy(), "nobody named"), because(r.GetReason()), r.GetCreatedAt().AsTime().UTC().Format(time.DateTime))
	for _, f := range r.GetFaults() {
		d.linef("- refused: %s", f)
	}
	if r.GetRequest() == "" {
		return d.String()
	}
	d.linef("\n%d of %d dates are complete.", r.GetDatesComplete(), r.GetDates())
	if r.GetFinishedAt() != nil {
		d.linef("It took %s%s.", seconds(r.GetDurationSeconds()), planned(r))
	}
	d.linef("%d attempts, %d of which failed; %d answers said too many requests.", r.GetAttempts(), r.GetRetries(), r.GetThrottles())
	d.linef("Spend: $%.2f%s%s.", r.GetSpendUsd(), expected(r.GetPlannedUsd()), ofBudget(r.GetBudgetUsd()))
	d.linef("\nThe request:\n\n```json\n%s\n```", r.GetRequest())
	var rows [][]string
	for _, p := range r.GetPhases() {
		t := p.GetRuns()
		rows = append(rows, []string{
			p.GetId(), number(p.GetDatesComplete()), number(t.GetTotal()), number(t.GetSucceeded()), number(t.GetSkipped()), number(t.GetWaived()), number(t.GetExhausted()),
			number(t.GetPending() + t.GetInFlight() + t.GetRetrying()),
		})
	}
	d.table("Phases", []string{"phase", "dates complete", "runs", "succeeded", "skipped", "waived", "failed", "not run"}, rows)
	d.lists(r)
	return d.String()
}

// lists writes what there may be none of.
func (d *doc) lists(r *pb.Report) {
	var rows [][]string
	for _, f := range r.GetFailures() {
		rows = append(rows, []string{f.GetDate(), f.GetPhase(), f.GetProcessor(), number(f.GetAttempts()), f.GetLastError()})
	}
	d.table(fmt.Sprintf("Failures (%d)", len(rows)), []string{"date", "phase", "processor", "attempts", "last error"}, rows)
	rows = nil
	for _, w := range r.GetWaivers() {
		rows = append(rows, []string{w.GetDate(), w.GetPhase(), w.GetProcessor(), w.GetRequestedBy(), w.GetReason()})
	}
	d.table(fmt.Sprintf("Waived (%d)", len(rows)), []string{"date", "phase", "processor", "by", "reason"}, rows)
	rows = nil
	for _, c := range r.GetChecks() {
		rows = append(rows, []string{c.GetCheck(), c.GetAfter(), c.GetResult(), number(c.GetDates()), number(int32(len(c.GetFailures()))), c.GetDetail()})
	}
	d.table("Checks", []string{"check", "after", "result", "dates", "fail", "found"}, rows)
	rows = nil
	for _, c := range r.GetChecks() {
		for _, f := range c.GetFailures() {
			rows = append(rows, []string{c.GetCheck(), f.GetDate(), f.GetDetail()})
		}
	}
	d.table("Dates that fail a check", []string{"check", "date", "found"}, rows)
	rows = nil
	for _, p := range r.GetSpend() {
		rows = append(rows, []string{p.GetName(), fmt.Sprintf("%.0f %s", p.GetAmount(), p.GetUnit()), fmt.Sprintf("$%.4f", p.GetUsd())})
	}
	d.table("Spend", []string{"what", "amount", "cost"}, rows)
	rows = nil
	for _, p := range r.GetSlowest() {
		rows = append(rows, []string{p.GetPhase(), p.GetProcessor(), number(p.GetRuns()), fmt.Sprintf("%.1f s", p.GetMeanSeconds()), fmt.Sprintf("%.1f s", p.GetMaxSeconds())})
	}
	d.table("Slowest processors", []string{"phase", "processor", "runs", "mean", "longest"}, rows)
	rows = nil
	for _, t := range r.GetThrottled() {
		rows = append(rows, []string{t.GetPhase(), t.GetReason(), number(t.GetTimes())})
	}
	d.table("Windows that shrank", []string{"phase", "reason", "times"}, rows)
	rows = nil
	for _, t := range r.GetRollbacks() {
		rows = append(rows, []string{t.GetTable(), t.GetPhase(), t.GetState(), fmt.Sprint(t.GetDeleted()), t.GetSnapshot()})
	}
	d.table("Rolled back", []string{"table", "phase", "state", "rows", "snapshot"}, rows)
	if notes := r.GetNotes(); len(notes) > 0 {
		d.linef("\n## What happened\n")
		for _, n := range notes[max(0, len(notes)-shown):] {
			d.linef("- %s", n)
		}
	}
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

func planned(r *pb.Report) string {
	if r.GetPlannedSeconds() <= 0 {
		return ""
	}
	return fmt.Sprintf("; %s were planned, and %s at most in nine of ten cases", seconds(r.GetPlannedSeconds()), seconds(r.GetPlannedP90Seconds()))
}

func expected(usd float64) string {
	if usd <= 0 {
		return ""
	}
	return fmt.Sprintf(", $%.2f were expected", usd)
}

func ofBudget(usd float64) string {
	if usd <= 0 {
		return ""
	}
	return fmt.Sprintf(", the budget was $%.2f", usd)
}
