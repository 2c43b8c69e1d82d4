package report

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/backfill"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// slowest is how many processors are listed.
const slowest = 10

// Report is what the lines amount to; nil when there was none that says so.
func (b *Builder) Report() *pb.Report {
	out := b.out
	if out.GetState() == "" {
		return nil
	}
	if b.known {
		b.count()
	}
	for _, name := range slices.Sorted(maps.Keys(b.checks)) {
		c := b.checks[name]
		if c.at.IsZero() { // it was only run to hold dates
			c.result.Result = "passed"
			for _, date := range slices.Sorted(maps.Keys(c.blocking)) {
				c.result.Failures = append(c.result.Failures, &pb.CheckFailure{Date: date, Detail: c.blocking[date]})
				c.result.Result = "failed"
			}
		}
		slices.SortFunc(c.result.GetFailures(), func(x, y *pb.CheckFailure) int { return cmp.Compare(x.GetDate(), y.GetDate()) })
		out.Checks = append(out.Checks, c.result)
	}
	for _, t := range b.times {
		out.Slowest = append(out.Slowest, t)
	}
	slices.SortFunc(out.GetSlowest(), func(x, y *pb.ProcessorTime) int {
		return cmp.Or(cmp.Compare(y.GetMeanSeconds(), x.GetMeanSeconds()), cmp.Compare(x.GetProcessor(), y.GetProcessor()))
	})
	out.Slowest = out.GetSlowest()[:min(slowest, len(out.GetSlowest()))]
	for k, n := range b.throttle {
		out.Throttled = append(out.Throttled, &pb.Throttle{Phase: k[0], Reason: k[1], Times: n})
	}
	slices.SortFunc(out.GetThrottled(), func(x, y *pb.Throttle) int {
		return cmp.Or(cmp.Compare(y.GetTimes(), x.GetTimes()), cmp.Compare(x.GetPhase()+x.GetReason(), y.GetPhase()+y.GetReason()))
	})
	for _, name := range b.order {
		out.Rollbacks = append(out.Rollbacks, b.tables[name])
	}
	if out.GetFinishedAt() != nil {
		out.DurationSeconds = out.GetFinishedAt().AsTime().Sub(out.GetCreatedAt().AsTime()).Seconds()
	}
	return out
}

// count adds the runs up by phase and date, and lists what failed.
func (b *Builder) count() {
	out := b.out
	done := map[string]map[string]int{} // by phase and date
	tally := map[string]*backfill.Tally{}
	for i := range b.begun.Phases {
		done[b.begun.Phases[i].ID], tally[b.begun.Phases[i].ID] = map[string]int{}, &backfill.Tally{}
	}
	for k, o := range b.runs {
		t := tally[k.phase]
		if _, isCheck := backfill.CheckName(k.processor); t == nil || isCheck {
			continue
		}
		t.Count(o.state, 1)
		if o.state.Done() {
			done[k.phase][k.date]++
		}
		out.Retries += int32(o.failures)
		if o.state == backfill.RunExhausted {
			out.Failures = append(out.Failures, &pb.Failure{
				Date: k.date, Phase: k.phase, Processor: k.processor, Attempts: int32(o.failures), LastError: o.last, Retryable: !o.fatal,
			})
		}
	}
	for name, c := range b.checks {
		for date, why := range c.blocking {
			out.Failures = append(out.Failures, &pb.Failure{
				Date: date, Phase: c.result.GetAfter(), Processor: (&backfill.Check{Name: name}).Ref().Processor, Attempts: 1, LastError: why, Retryable: true,
			})
		}
	}
	slices.SortFunc(out.GetFailures(), func(x, y *pb.Failure) int {
		return cmp.Or(cmp.Compare(x.GetDate(), y.GetDate()), cmp.Compare(x.GetPhase(), y.GetPhase()), cmp.Compare(x.GetProcessor(), y.GetProcessor()))
	})
	open := map[string]bool{}
	for _, ph := range b.begun.Phases {
		t := tally[ph.ID]
		dates, complete := 0, 0
		for _, part := range b.begun.Dates.All() {
			if len(ph.Seasons) > 0 && !slices.Contains(ph.Seasons, part.Season) {
				continue
			}
			dates++
			if done[ph.ID][part.Date.String()] == ph.Processors {
				complete++
			} else {
				open[part.Date.String()] = true
			}
		}
		if dates == 0 {
			continue
		}
		t.Pending += dates*ph.Processors - t.Total
		t.Total = dates * ph.Processors
		n := func(i int) int32 { return int32(i) }
		out.Phases = append(out.Phases, &pb.PhaseProgress{Id: ph.ID, DatesComplete: n(complete), Runs: &pb.Tally{
			Total: n(t.Total), Succeeded: n(t.Succeeded), Skipped: n(t.Skipped), Waived: n(t.Waived), InFlight: n(t.InFlight), Retrying: n(t.Retrying),
			Exhausted: n(t.Exhausted), Pending: n(t.Pending),
		}})
	}
	out.DatesComplete = int32(b.begun.Dates.Len() - len(open))
	if b.ended == nil {
		return
	}
	p := b.ended.Progress
	out.Attempts, out.Throttles, out.SpendUsd = int32(p.Attempts), int32(p.Throttles), p.SpendUSD
	if b.ended.Budget > 0 {
		out.BudgetUsd = b.ended.Budget
	}
	for _, s := range p.Spend {
		out.Spend = append(out.Spend, &pb.SpendPart{Name: s.What, Amount: s.Amount, Unit: s.Unit, Usd: s.USD})
	}
}

// Now is a report of a backfill that has not ended, with what its document knows better.
func Now(out *pb.Report, b *backfill.Backfill) {
	if b == nil || out == nil || out.GetFinishedAt() != nil {
		return
	}
	out.State, out.Throttles, out.Attempts, out.SpendUsd, out.BudgetUsd = string(b.State), int32(b.Progress.Throttles), int32(b.Progress.Attempts), b.Progress.SpendUSD, b.Budget.USD
	if !b.FinishedAt.IsZero() {
		out.FinishedAt = timestamppb.New(b.FinishedAt)
	}
}
