package verify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Complete runs the checks of a backfill, or those named, each over the dates on which its phase is complete.
func (s Settings) Complete(ctx context.Context, scope *backfill.Scope, complete func(backfill.Cell) bool, names []string) ([]Outcome, error) {
	var out []Outcome
	for i := range s.Pipeline.Checks {
		c := &s.Pipeline.Checks[i]
		ph, ok := s.Pipeline.Phase(c.After)
		if !ok || !scope.Selected(ph.ID) || (len(names) > 0 && !slices.Contains(names, c.Name)) {
			continue
		}
		var dates []backfill.Partition
		for _, p := range scope.Dates.All() {
			if ph.AppliesTo(p.Season) && complete(backfill.Cell{Date: p.Date, Phase: ph.ID}) {
				dates = append(dates, p)
			}
		}
		o, err := s.Run(ctx, []backfill.Check{*c}, dates)
		if err != nil {
			return nil, err
		}
		out = append(out, o...)
	}
	return out, nil
}

// Journal is what the journal keeps of outcomes: a line for each check, and one for each date that fails.
func Journal(source string, scope *backfill.Scope, at time.Time, outcomes []Outcome) []*event.Event {
	var out []*event.Event
	for _, o := range outcomes {
		line := func(e *pb.BackfillEvent, parts ...string) {
			e.BackfillId, e.Pipeline, e.Phase, e.Processor = scope.ID, scope.Pipeline.Name, o.Check.After, o.Check.Ref().Processor
			out = append(out, event.Journal(source, at, e, append(parts, at.Format(time.RFC3339Nano))...))
		}
		line(&pb.BackfillEvent{Kind: "verified_" + string(o.Result), Message: o.Detail, Records: int64(o.Dates), Attempt: int32(len(o.Failures)), Data: o.Check.Kind})
		for _, f := range o.Failures {
			line(&pb.BackfillEvent{Kind: "verify_failure", Date: f.Date.String(), Message: f.Detail, Data: f.When()}, fmt.Sprint(f.Until))
		}
	}
	return out
}

// Wire is an outcome as a message.
func (o Outcome) Wire() *pb.CheckResult {
	out := &pb.CheckResult{
		Check: o.Check.Name, After: o.Check.After, Kind: o.Check.Kind, Blocking: o.Check.Blocking, Result: string(o.Result), Dates: int32(o.Dates), Detail: o.Detail,
	}
	for _, f := range o.Failures {
		out.Failures = append(out.Failures, &pb.CheckFailure{Date: f.When(), Detail: f.Detail})
	}
	return out
}
