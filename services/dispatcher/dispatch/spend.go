package dispatch

import (
	"context"
	"fmt"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/cost"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// spent is what a backfill has cost so far, and what the whole of it will.
type spent struct {
	parts    []backfill.Spent
	usd      float64
	forecast float64
}

// budgetWarning is the share of a budget at which it is said that it will soon be used up.
const budgetWarning = 0.8

// watchLoop asks the warehouse, every now and then and apart from everything that must go on, what was spent, whether
// jobs queue up, and how the runs ended that report nothing. It also removes documents that have expired.
func (d *Dispatcher) watchLoop(ctx context.Context) {
	tick := time.NewTicker(d.Watch)
	defer tick.Stop()
	var purged time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.pressure(ctx)
		for _, dr := range d.drives() {
			if err := d.budget(ctx, dr); err != nil && !fault.Is(err, fault.Fenced) {
				d.complain(ctx, dr, "cannot watch the budget", err)
			}
			if err := d.learnOutcomes(ctx, dr); err != nil {
				d.complain(ctx, dr, "cannot learn from the history how runs ended", err)
			}
		}
		if now := d.Now(); now.Sub(purged) >= time.Hour {
			purged = now
			d.purge(ctx, now)
		}
	}
}

// spend adds up what a backfill has cost. Bytes are those that the warehouse's statistics say were billed, or what the
// processors said when there are none; the rest is estimated from counts and durations.
func (d *Dispatcher) spend(ctx context.Context, dr *drive, snap *backfill.Progress) error {
	u := cost.Usage{Calls: snap.Attempts, ProcessorSeconds: snap.BusySeconds, BytesBilled: float64(snap.BytesReported)}
	phases := make([]cost.PhaseCost, len(snap.Phases))
	for i, ph := range snap.Phases {
		u.Runs += ph.Succeeded + ph.Exhausted
		phases[i] = cost.PhaseCost{Done: ph.Succeeded, Left: ph.Pending + ph.InFlight + ph.Retrying, EachUSD: dr.planned.EachUSD[ph.ID]}
	}
	u.Runs += snap.Retries
	var err error
	if w := d.Before.Planner.Warehouse; w != nil {
		var billed int64
		billed, err = w.Billed(warehouse.ForBackfill(ctx, dr.scope.ID), dr.scope.ID, dr.scope.Pipeline.BigQuery.ServiceAccounts, dr.created, time.Time{})
		if fault.Is(err, fault.Unsupported) {
			err = nil
		}
		u.BytesBilled = max(u.BytesBilled, float64(billed))
	}
	if err != nil && snap.SpendUSD > 0 {
		return err // the last that is known is better than a part of it
	}
	snap.Spend = nil
	for _, p := range cost.Estimate(u) {
		snap.Spend = append(snap.Spend, backfill.Spent{What: p.What, Amount: p.Amount, Unit: p.Unit, USD: p.USD})
	}
	snap.SpendUSD = cost.Total(cost.Estimate(u))
	snap.ForecastUSD = cost.Forecast(snap.SpendUSD, phases)
	dr.mu.Lock()
	dr.progress.spent, dr.progress.dirty = spent{snap.Spend, snap.SpendUSD, snap.ForecastUSD}, true
	dr.mu.Unlock()
	return err
}

// budget says once that a budget is nearly used up, and pauses a backfill that has used all of it.
func (d *Dispatcher) budget(ctx context.Context, dr *drive) error {
	dr.mu.Lock()
	snap := dr.progress.snapshot(d.Now())
	dr.mu.Unlock()
	if err := d.spend(ctx, dr, &snap); err != nil {
		return err
	}
	b, err := d.Store.Backfill(ctx, dr.scope.ID)
	if err != nil || b.Budget.USD <= 0 || snap.SpendUSD < budgetWarning*b.Budget.USD {
		return err
	}
	b.Progress.SpendUSD = snap.SpendUSD
	if why := b.OverBudget(); why != "" && dr.current() == backfill.StateActive {
		_, err := d.Store.UpdateBackfill(ctx, dr.scope.ID, dr.epoch, func(b *backfill.Backfill) error {
			b.Progress.Spend, b.Progress.SpendUSD, b.Progress.ForecastUSD = snap.Spend, snap.SpendUSD, snap.ForecastUSD
			b.Notices = append(b.Notices, "paused: "+why+", then resume")
			return nil
		})
		if err != nil {
			return err
		}
		return d.setState(ctx, dr, backfill.StatePausing, why, Name)
	}
	if b.Budget.Warned {
		return nil
	}
	text := fmt.Sprintf("$%.2f of budget_usd %.2f are spent, and about $%.2f are expected in all", snap.SpendUSD, b.Budget.USD, snap.ForecastUSD)
	_, err = d.Store.UpdateBackfill(ctx, dr.scope.ID, dr.epoch, func(b *backfill.Backfill) error {
		b.Budget.Warned = true
		b.Notices = append(b.Notices, text)
		return nil
	})
	if err != nil {
		return err
	}
	now := d.Now()
	d.Log.WarnContext(ctx, "budget nearly used up", "backfill_id", dr.scope.ID, "spend_usd", snap.SpendUSD, "budget_usd", b.Budget.USD, "forecast_usd", snap.ForecastUSD)
	d.journal.add(event.Journal(Name, now, &pb.BackfillEvent{
		BackfillId: dr.scope.ID, Pipeline: dr.scope.Pipeline.Name, Kind: "budget_warning", Message: text,
	}, now.String()))
	return nil
}

// pressure shrinks the windows of phases that use the warehouse while too many of its jobs wait. They grow again by
// themselves, with the answers that come while none do.
func (d *Dispatcher) pressure(ctx context.Context) {
	w := d.Before.Planner.Warehouse
	var queue *warehouse.Queue
	for _, dr := range d.drives() {
		limit := dr.scope.Pipeline.BigQuery
		if w == nil || (limit.PendingJobs == 0 && limit.Queue == 0) || dr.current() != backfill.StateActive {
			continue
		}
		if queue == nil {
			q, err := w.Queue(ctx, d.Now().Add(-time.Minute))
			if err != nil {
				if !fault.Is(err, fault.Unsupported) {
					d.complain(ctx, dr, "cannot ask how many jobs wait", err)
				}
				return
			}
			queue = &q
		}
		var reason string
		switch {
		case limit.PendingJobs > 0 && queue.Pending > limit.PendingJobs:
			reason = fmt.Sprintf("%d BigQuery jobs wait for slots, more than %d", queue.Pending, limit.PendingJobs)
		case limit.Queue > 0 && queue.Wait > limit.Queue:
			reason = fmt.Sprintf("BigQuery jobs wait %s for slots, longer than %s", queue.Wait.Round(time.Millisecond), limit.Queue)
		default:
			continue
		}
		d.mu.Lock()
		for i := range dr.scope.Pipeline.Phases {
			if ph := &dr.scope.Pipeline.Phases[i]; len(ph.Outputs) > 0 {
				d.sched.Press(backfill.Lane{Backfill: dr.scope.ID, Phase: ph.ID}, reason, d.Now())
			}
		}
		d.mu.Unlock()
	}
}
