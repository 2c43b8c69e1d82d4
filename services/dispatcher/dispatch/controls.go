package dispatch

import (
	"context"
	"maps"
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/planner"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// onControl steers a backfill. A control that makes no sense in the backfill's state leaves a notice.
func (d *Dispatcher) onControl(ctx context.Context, e *event.Event) error {
	if err := e.Err(); err != nil {
		return err
	}
	m, ok := e.Data.(*pb.BackfillControlled)
	if !ok {
		return fault.New(fault.Invalid, "event %s of type %s is no control", e.ID, e.Type)
	}
	if err := planner.CheckControl(m); err != nil {
		return err
	}
	b, err := d.Store.Backfill(ctx, m.GetBackfillId())
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.Invalid, "event %s: %w", e.ID, err)
	}
	if err != nil {
		return err
	}
	d.journal.add(event.Journal(Name, e.Time, &pb.BackfillEvent{
		BackfillId: b.ID, Pipeline: b.Request.Pipeline, Kind: "control_" + m.GetAction(), RequestedBy: m.GetRequestedBy(),
		Message: m.GetReason(),
	}, e.ID))
	if why := b.State.Refuses(m.GetAction()); why != "" {
		return d.notice(ctx, b.Request, why)
	}
	return d.control(ctx, b, m, e)
}

func (d *Dispatcher) control(ctx context.Context, b *backfill.Backfill, m *pb.BackfillControlled, e *event.Event) error {
	switch m.GetAction() {
	case "retry", "waive":
		return d.amend(ctx, b, m)
	case "rollback":
		return d.rollback(ctx, b, m, e)
	case "forget":
		return d.forget(ctx, b, m)
	case "release":
		return d.Store.Unclaim(ctx, b.Request.Pipeline, b.ID)
	case "cancel":
		if b.State == backfill.StateCancelled || b.State == backfill.StateCancelling {
			return nil
		}
	case "pause":
		if b.State != backfill.StateActive {
			return nil
		}
	case "resume":
		if b.State == backfill.StateActive {
			return nil
		}
		if why := b.OverBudget(); why != "" {
			return d.notice(ctx, b.Request, "resume has no effect: "+why)
		}
	}
	if err := d.take(ctx, b.ID); err != nil {
		return err // another instance drives it: the message comes round again
	}
	dr := d.drive(b.ID)
	if dr == nil {
		return fault.New(fault.Unavailable, "backfill %s has just ended", b.ID)
	}
	switch m.GetAction() {
	case "limit":
		return d.limit(ctx, dr, b, planner.Limits(m.GetLimits()), m.BudgetUsd)
	case "pause":
		return d.setState(ctx, dr, backfill.StatePausing, m.GetReason(), m.GetRequestedBy())
	case "resume":
		return d.setState(ctx, dr, backfill.StateActive, m.GetReason(), m.GetRequestedBy())
	default:
		if err := d.setState(ctx, dr, backfill.StateCancelling, m.GetReason(), m.GetRequestedBy()); err != nil {
			return err
		}
		dr.cancel()
		return nil
	}
}

// limit changes the limits of a running backfill. Those that the control does not name stay.
func (d *Dispatcher) limit(ctx context.Context, dr *drive, b *backfill.Backfill, limits map[string]backfill.Limits, budget *float64) error {
	if err := planner.CheckLimits(dr.scope.Pipeline, limits); err != nil {
		return d.notice(ctx, b.Request, "limit has no effect: "+err.Error())
	}
	changed, err := d.Store.UpdateBackfill(ctx, b.ID, dr.epoch, func(b *backfill.Backfill) error {
		all := maps.Clone(b.Limits)
		if all == nil {
			all = map[string]backfill.Limits{}
		}
		maps.Copy(all, limits)
		maps.DeleteFunc(all, func(_ string, l backfill.Limits) bool { return l == backfill.Limits{} })
		b.Limits = all
		if budget != nil {
			b.Budget = backfill.Budget{USD: *budget}
		}
		return nil
	})
	if err != nil {
		return err
	}
	dr.mu.Lock()
	dr.budget = changed.Budget.USD
	dr.mu.Unlock()
	d.mu.Lock()
	d.sched.Limit(b.ID, dr.scope.Pipeline, changed.Limits)
	d.mu.Unlock()
	d.signal()
	return nil
}

// amend grants new attempts (retry) or lets the gates pass (waive), and wakes what was held.
func (d *Dispatcher) amend(ctx context.Context, b *backfill.Backfill, m *pb.BackfillControlled) error {
	p, err := d.Store.Pipeline(ctx, b.Request.Pipeline, b.Version)
	if err != nil {
		return err
	}
	scope := backfill.NewScope(b, p)
	changed := 0
	err = d.Store.ScanDates(ctx, b.ID, scope.Dates.At(0).Date, scope.Dates.At(scope.Dates.Len()-1).Date, func(rec backfill.Record) error {
		facts := amendment(scope, &rec, m, d.Now())
		if len(facts) == 0 {
			return nil
		}
		changed += len(facts)
		d.journal.add(amended(scope, rec.Date, facts)...)
		merged, err := d.Store.Merge(ctx, b.ID, rec.Date, d.Now(), facts...)
		if err != nil {
			return err
		}
		return d.markComplete(ctx, scope, &merged)
	})
	if err != nil {
		return err
	}
	if changed == 0 {
		return d.notice(ctx, b.Request, m.GetAction()+" found nothing to "+m.GetAction())
	}
	if b.State.Ended() {
		if open, err := d.reopen(ctx, b, scope); err != nil || !open {
			return err
		}
	}
	dr := d.drive(b.ID)
	if dr == nil {
		return d.take(ctx, b.ID)
	}
	return d.resume(ctx, dr, false)
}

// amendment is the facts that a control adds to a date.
func amendment(s *backfill.Scope, rec *backfill.Record, m *pb.BackfillControlled, now time.Time) []backfill.Fact {
	named := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	if !named(m.GetDates(), rec.Date.String()) {
		return nil
	}
	phases := m.GetPhases()
	if m.GetPhase() != "" {
		phases = append(slices.Clone(phases), m.GetPhase())
	}
	v := backfill.Value{At: now, By: m.GetRequestedBy(), Message: m.GetReason()}
	var out []backfill.Fact
	for _, ph := range s.Phases(rec.Season) {
		for _, c := range s.Blocking(ph.ID, rec.Season) {
			ref, run := c.Ref(), rec.Check(c)
			if !named(phases, ph.ID) || !named(m.GetProcessors(), ref.Processor) || run.State != backfill.CheckIsBad {
				continue
			}
			k := backfill.Key{Phase: ref.Phase, Processor: ref.Processor, Attempt: run.Attempt, Kind: backfill.Retried}
			if m.GetAction() == "waive" {
				k.Attempt, k.Kind = 0, backfill.Waived
			}
			out = append(out, backfill.Fact{Key: k, Value: v})
		}
		for i := range ph.Processors {
			proc := &ph.Processors[i]
			if !named(phases, ph.ID) || !named(m.GetProcessors(), proc.Name) {
				continue
			}
			run := rec.Run(s.ID, ph, proc)
			k := backfill.Key{Phase: ph.ID, Processor: proc.Name}
			switch {
			case m.GetAction() == "retry" && run.State == backfill.RunExhausted:
				k.Kind, k.Attempt = backfill.Retried, run.Attempt-1
				out = append(out, backfill.Fact{Key: k, Value: v})
			case m.GetAction() == "waive" && !run.State.Done():
				k.Kind = backfill.Waived
				out = append(out, backfill.Fact{Key: k, Value: v})
			}
		}
	}
	return out
}

// amended is what the journal is told of it.
func amended(s *backfill.Scope, date backfill.Date, facts []backfill.Fact) []*event.Event {
	out := make([]*event.Event, len(facts))
	for i, f := range facts {
		out[i] = event.Journal(Name, f.At, &pb.BackfillEvent{
			BackfillId: s.ID, Pipeline: s.Pipeline.Name, Kind: string(f.Kind), Date: date.String(), Phase: f.Phase, Processor: f.Processor,
			Attempt: int32(f.Attempt), Message: f.Message, RequestedBy: f.By,
		})
	}
	return out
}

// markComplete adds the marks of phases that are complete without a completion, because of a waiver.
func (d *Dispatcher) markComplete(ctx context.Context, s *backfill.Scope, rec *backfill.Record) error {
	for _, ph := range s.Phases(rec.Season) {
		done := backfill.Fact{Key: backfill.Key{Phase: ph.ID, Kind: backfill.Complete}, Value: backfill.Value{At: d.Now()}}
		if s.Complete(rec, ph.ID) && !rec.Has(done.Key) {
			if _, err := d.Store.Merge(ctx, s.ID, rec.Date, time.Time{}, done); err != nil {
				return err
			}
		}
	}
	return nil
}

// reopen makes an ended backfill active again, if its dates are still free.
func (d *Dispatcher) reopen(ctx context.Context, b *backfill.Backfill, s *backfill.Scope) (bool, error) {
	dates := make([]backfill.Date, s.Dates.Len())
	for i := range dates {
		dates[i] = s.Dates.At(i).Date
	}
	err := d.claim(ctx, b.Request.Pipeline, b.ID, dates)
	if fault.Is(err, fault.Conflict) {
		return false, d.notice(ctx, b.Request, "cannot go on: "+err.Error())
	}
	if err != nil {
		return false, err
	}
	was, finished := b.State, b.FinishedAt
	if _, err = d.Store.UpdateBackfill(ctx, b.ID, 0, func(b *backfill.Backfill) error {
		if b.State.Ended() {
			b.State, b.FinishedAt = backfill.StateActive, time.Time{}
		}
		return nil
	}); err != nil {
		return false, err
	}
	if !b.ExpiresAt.IsZero() {
		if err := d.Store.Expire(ctx, b.ID, time.Time{}); err != nil {
			return false, err
		}
	}
	d.say(b, &pb.BackfillEvent{Kind: string(backfill.StateActive), Message: "begun again after it was " + string(was)})
	// Until then it was an ended one, whose dates another may take.
	if err = d.claim(ctx, b.Request.Pipeline, b.ID, dates); fault.Is(err, fault.Conflict) {
		if _, err := d.Store.UpdateBackfill(ctx, b.ID, 0, func(b *backfill.Backfill) error {
			b.State, b.FinishedAt = was, finished
			return nil
		}); err != nil {
			return false, err
		}
		return false, d.notice(ctx, b.Request, "cannot go on: "+err.Error())
	}
	return err == nil, err
}
