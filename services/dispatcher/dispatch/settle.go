package dispatch

import (
	"context"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/report"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// lull is how long there must be no news before a backfill with runs left to start is looked over: the news
// that starts them is under way.
const lull = time.Second

// longSilence is how long there must be no news before the documents are looked over whatever is in flight.
const longSilence = 8 * time.Second

// settle notices when a backfill has come to rest: paused, cancelled, or at its end.
func (d *Dispatcher) settle(ctx context.Context, dr *drive) {
	id := dr.scope.ID
	d.mu.Lock()
	inFlight, quiet := d.sched.InFlight(id), d.sched.Quiet(id)
	d.mu.Unlock()
	dr.mu.Lock()
	calls, open, st := len(dr.calling), dr.progress.open(), dr.state
	inFlight += dr.progress.untriggered()
	early := d.Now().Before(dr.nextLook)
	dr.mu.Unlock()
	var err error
	switch {
	case st == backfill.StatePausing && inFlight == 0 && calls == 0:
		err = d.setState(ctx, dr, backfill.StatePaused, "nothing is in flight any more", Name)
	case st == backfill.StateCancelling && inFlight == 0 && calls == 0:
		err = d.end(ctx, dr, backfill.StateCancelled, nil)
	case (st == backfill.StatePausing || st == backfill.StateCancelling) && calls == 0 && !early:
		if d.silence(dr) >= longSilence {
			err = d.scan(ctx, dr, func(rec backfill.Record) error {
				d.observe(dr, &rec)
				d.reconcile(dr, &rec)
				return nil
			})
		}
	case st == backfill.StateActive && calls == 0 && !early:
		// Runs that only wait for their completion, or for a retry, keep it going. After a longer silence the
		// documents are looked over all the same, in case news was lost.
		if silence := d.silence(dr); (quiet && open == 0) || silence >= longSilence {
			err = d.tryEnd(ctx, dr)
		}
	}
	if err != nil && !fault.Is(err, fault.Fenced) {
		d.complain(ctx, dr, "cannot settle", err)
	}
}

// silence is how long there has been no news, about; it also says when to look again.
func (d *Dispatcher) silence(dr *drive) time.Duration {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	dr.patience = min(time.Minute, max(lull, 2*dr.patience))
	dr.nextLook = d.Now().Add(dr.patience)
	return dr.patience
}

// rest is what a walk over all dates found.
type rest struct {
	moving   int // dates with something that runs, or will
	complete map[backfill.Cell]bool
	done     int
	failed   map[backfill.Date]bool
	open     []backfill.Record
}

// knowledge is what a walk has learnt, as the gate's decisions want it.
type knowledge struct {
	complete map[backfill.Cell]bool
	prefix   map[string]int
}

func (k knowledge) Complete(c backfill.Cell) (complete, known bool) { return k.complete[c], true }
func (k knowledge) Prefix(phase string) int                         { return k.prefix[phase] }

func (r *rest) known(s *backfill.Scope) knowledge {
	k := knowledge{r.complete, map[string]int{}}
	for i := range s.Pipeline.Phases {
		id, n := s.Pipeline.Phases[i].ID, 0
		for n < s.Dates.Len() && r.complete[backfill.Cell{Date: s.Dates.At(n).Date, Phase: id}] {
			n++
		}
		k.prefix[id] = n
	}
	return k
}

// tryEnd walks all dates. If nothing can move any more, the backfill is over; if a gate should be open and
// is not, a message was lost, and the gate is asked again.
func (d *Dispatcher) tryEnd(ctx context.Context, dr *drive) error {
	r := rest{complete: map[backfill.Cell]bool{}, failed: map[backfill.Date]bool{}}
	var again []backfill.Date
	err := d.scan(ctx, dr, func(rec backfill.Record) error {
		d.observe(dr, &rec)
		d.reconcile(dr, &rec)
		f := dr.scope.Examine(&rec, d.Now(), false)
		if f.Open {
			r.moving++
			again = append(again, rec.Date)
		}
		for i := range dr.scope.Pipeline.Phases {
			id := dr.scope.Pipeline.Phases[i].ID
			r.complete[backfill.Cell{Date: rec.Date, Phase: id}] = dr.scope.Complete(&rec, id)
		}
		if dr.scope.DateComplete(&rec) {
			r.done++
			return nil
		}
		r.failed[rec.Date] = len(dr.scope.Failures(&rec)) > 0
		r.open = append(r.open, rec)
		return nil
	})
	if err != nil {
		return err
	}
	for _, date := range again {
		if err := d.look(ctx, dr, date); err != nil {
			return err
		}
	}
	events := d.closedGates(dr, &r)
	if len(events) > 0 {
		return d.Bus.Publish(ctx, event.TopicPhaseCompletions, events...)
	}
	if r.moving > 0 {
		return nil
	}
	st := backfill.StateCompleted
	if r.done < dr.scope.Dates.Len() {
		st = backfill.StateIncomplete
	}
	return d.end(ctx, dr, st, &r)
}

// reconcile ends runs in flight whose outcome is on record, because the news of it was lost.
func (d *Dispatcher) reconcile(dr *drive, rec *backfill.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ph := range dr.scope.Phases(rec.Season) {
		for i := range ph.Processors {
			k := backfill.RunKey{Lane: backfill.Lane{Backfill: dr.scope.ID, Phase: ph.ID}, Date: rec.Date, Processor: ph.Processors[i].Name}
			if !d.sched.Running(k) {
				continue
			}
			switch run := rec.Run(dr.scope.ID, ph, &ph.Processors[i]); {
			case run.State.Done():
				d.sched.Ended(k, run.Attempt, backfill.Neutral, d.Now())
			case run.State == backfill.RunRetrying || run.State == backfill.RunExhausted:
				d.sched.Ended(k, run.Attempt-1, backfill.Neutral, d.Now())
			}
		}
	}
}

// closedGates finds dates with a phase that may start but was never triggered.
func (d *Dispatcher) closedGates(dr *drive, r *rest) []*event.Event {
	var out []*event.Event
	known := r.known(dr.scope)
	for i := range r.open {
		rec := &r.open[i]
		for _, ph := range dr.scope.Phases(rec.Season) {
			opening := dr.scope.Open(rec, ph, known)
			untriggered := len(opening.Checks) > 0 // the gate has yet to run them
			for _, name := range opening.Start {
				marked := rec.Has(backfill.Key{Phase: ph.ID, Kind: backfill.Triggered}) ||
					rec.Has(backfill.Key{Phase: ph.ID, Processor: name, Kind: backfill.Triggered})
				untriggered = untriggered || !marked
			}
			if untriggered {
				out = append(out, d.changed(dr, rec.Date, "a gate should be open"))
				break
			}
		}
	}
	return out
}

// end writes the final state, frees the dates and stops driving.
func (d *Dispatcher) end(ctx context.Context, dr *drive, st backfill.State, r *rest) error {
	now := d.Now()
	dr.mu.Lock()
	snap := dr.progress.snapshot(now)
	dr.mu.Unlock()
	snap.ETA = time.Time{}
	notices, err := d.last(ctx, dr, &snap, r)
	if err != nil {
		return err
	}
	if r != nil {
		for _, failed := range r.failed {
			if failed {
				snap.DatesFailed++
			} else {
				snap.DatesBlocked++
			}
		}
	}
	ended, err := d.Store.UpdateBackfill(ctx, dr.scope.ID, dr.epoch, func(b *backfill.Backfill) error {
		b.State, b.FinishedAt, b.Progress, b.Notices = st, now, snap, append(b.Notices, notices...)
		return nil
	})
	if err != nil {
		return err
	}
	dr.mu.Lock()
	dr.state = st
	dr.mu.Unlock()
	if err := d.Store.Unclaim(ctx, dr.scope.Pipeline.Name, dr.scope.ID); err != nil {
		return err
	}
	d.drop(dr)
	if err := d.Store.Release(ctx, dr.scope.ID, d.Holder); err != nil {
		return err
	}
	if at := d.expiry(); !at.IsZero() {
		if err := d.Store.Expire(ctx, dr.scope.ID, at); err != nil {
			d.Log.ErrorContext(ctx, "the documents of an ended backfill will not expire", "backfill_id", dr.scope.ID, "error", err)
		}
	}
	d.Log.InfoContext(ctx, "backfill ended", "backfill_id", dr.scope.ID, "state", string(st), "dates_complete", snap.DatesComplete,
		"dates_total", snap.DatesTotal, "attempts", snap.Attempts)
	d.journal.add(event.Journal(Name, now, &pb.BackfillEvent{
		BackfillId: dr.scope.ID, Pipeline: dr.scope.Pipeline.Name, Kind: string(st), Data: report.Encode(report.Ending{Progress: snap, Budget: ended.Budget.USD}),
	}, now.String()))
	return nil
}

// last is what is done once nothing moves any more and before the end is on record, so that it happens although the
// process may be stopped: the history is written, what was spent is added up, and the data checks are run.
func (d *Dispatcher) last(ctx context.Context, dr *drive, snap *backfill.Progress, r *rest) ([]string, error) {
	if err := d.writeBack(ctx, dr); err != nil {
		return nil, err
	}
	if err := d.spend(ctx, dr, snap); err != nil {
		d.complain(ctx, dr, "cannot find out what was spent: the last that is known stays", err)
	}
	if r == nil || len(dr.scope.Pipeline.Checks) == 0 {
		return nil, nil
	}
	return d.verify(ctx, dr, r), nil
}

// setState changes the state of a running backfill and journals it.
func (d *Dispatcher) setState(ctx context.Context, dr *drive, st backfill.State, why, by string) error {
	_, err := d.Store.UpdateBackfill(ctx, dr.scope.ID, dr.epoch, func(b *backfill.Backfill) error {
		b.State = st
		return nil
	})
	if err != nil {
		return err
	}
	dr.mu.Lock()
	dr.state = st
	dr.mu.Unlock()
	d.mu.Lock()
	d.sched.Pause(dr.scope.ID, st != backfill.StateActive)
	d.mu.Unlock()
	d.signal()
	now := d.Now()
	d.journal.add(event.Journal(Name, now, &pb.BackfillEvent{
		BackfillId: dr.scope.ID, Pipeline: dr.scope.Pipeline.Name, Kind: string(st), Message: why, RequestedBy: by,
	}, now.String()))
	return nil
}
