package dispatch

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/verify"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// learnOutcomes adopts: it asks the history, with one query over all open dates, how runs ended whose processors report
// nothing, and reports for them.
func (d *Dispatcher) learnOutcomes(ctx context.Context, dr *drive) error {
	h, w := dr.scope.Pipeline.History, d.Before.Planner.Warehouse
	from, to, waiting := dr.adopting()
	if h == nil || w == nil || !waiting {
		return nil
	}
	rows := map[backfill.Date][]warehouse.Recorded{}
	err := w.Recorded(warehouse.ForBackfill(ctx, dr.scope.ID), *h, from, to, dr.created, func(r warehouse.Recorded) {
		if ph, ok := dr.scope.Pipeline.Phase(r.Phase); ok && ph.Adopt && h.Outcome(r.Status) != "" {
			rows[r.Date] = append(rows[r.Date], r)
		}
	})
	if err != nil {
		return err
	}
	for date, list := range rows {
		if _, ours := dr.scope.Dates.Index(date); !ours {
			continue
		}
		rec, err := d.Store.Date(ctx, dr.scope.ID, date)
		if err != nil {
			return err
		}
		slices.SortFunc(list, func(a, b warehouse.Recorded) int { return a.Finished.Compare(b.Finished) })
		for _, r := range list {
			if err := d.adoptRun(ctx, dr, &rec, r, h.Outcome(r.Status)); err != nil {
				return err
			}
		}
	}
	return nil
}

// adopting is the span of the dates on which a phase that is adopted has runs that are not over.
func (dr *drive) adopting() (from, to backfill.Date, waiting bool) {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	for c, state := range dr.progress.cells {
		ph, ok := dr.scope.Pipeline.Phase(c.Phase)
		if !ok || !ph.Adopt || state.tally.InFlight == 0 {
			continue
		}
		if !waiting || c.Date < from {
			from = c.Date
		}
		to, waiting = max(to, c.Date), true
	}
	return from, to, waiting
}

// adoptRun reports a run of the history, if it is the attempt that is in flight: it must have ended after that began.
// The first attempt of a phase that the platform starts by itself may have ended before Sluice expected it to begin.
func (d *Dispatcher) adoptRun(ctx context.Context, dr *drive, rec *backfill.Record, r warehouse.Recorded, outcomeWord string) error {
	ph, _ := dr.scope.Pipeline.Phase(r.Phase)
	proc, ok := ph.Processor(r.Processor)
	if !ok {
		return nil
	}
	run := rec.Run(dr.scope.ID, ph, proc)
	since := run.Since
	if ph.Trigger.HTTP == nil && run.Attempt == 1 {
		since = dr.created
	}
	if run.State != backfill.RunInFlight || r.Finished.Before(since) {
		return nil
	}
	k := backfill.RunKey{Lane: backfill.Lane{Backfill: dr.scope.ID, Phase: r.Phase}, Date: r.Date, Processor: r.Processor}
	return d.report(ctx, dr, k, run.Attempt, outcome{
		status: outcomeWord, retryable: true, message: "adopted from history: " + r.Status, started: r.Started, at: r.Finished, records: r.Records,
	})
}

// writeBack writes the outcomes of a backfill into the history table when the pipeline says so; those that are there
// already, by their ids, are left out, so that it may be done again.
func (d *Dispatcher) writeBack(ctx context.Context, dr *drive) error {
	h, w := dr.scope.Pipeline.History, d.Before.Planner.Warehouse
	if h == nil || !h.Write || w == nil {
		return nil
	}
	var runs []warehouse.Recorded
	err := d.scan(ctx, dr, func(rec backfill.Record) error {
		for _, f := range rec.Facts() {
			words := map[backfill.Kind][]string{
				backfill.Succeeded: h.Succeeded, backfill.Failed: h.Failed, backfill.Rejected: h.Failed, backfill.Partial: h.Partial, backfill.ReportedSkip: h.Skipped,
			}[f.Kind]
			if len(words) == 0 {
				continue
			}
			r := warehouse.Recorded{
				Run: warehouse.Run{Date: rec.Date, Phase: f.Phase, Processor: f.Processor}, Status: words[0], Records: f.Records, Started: f.StartedAt, Finished: f.FinishedAt,
				ID: fmt.Sprintf("%s/%s/%s/%s/%d", dr.scope.ID, rec.Date, f.Phase, f.Processor, f.Attempt),
			}
			if r.Finished.IsZero() {
				r.Finished = f.At
			}
			if r.Started.IsZero() {
				r.Started = r.Finished
				if v, ok := rec.Get(backfill.Key{Phase: f.Phase, Processor: f.Processor, Attempt: f.Attempt, Kind: backfill.Dispatched}); ok {
					r.Started = v.At
				}
			}
			runs = append(runs, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.Record(warehouse.ForBackfill(ctx, dr.scope.ID), *h, runs)
}

// verifyTimeout bounds the checks at the end of a backfill.
const verifyTimeout = 2 * time.Minute

// verify runs the data checks over what is complete, journals what came of them, and says in notices which fail.
func (d *Dispatcher) verify(ctx context.Context, dr *drive, r *rest) []string {
	ctx, cancel := context.WithTimeout(warehouse.ForBackfill(ctx, dr.scope.ID), verifyTimeout)
	defer cancel()
	now := d.Now()
	s := verify.Settings{
		Source: d.Before.Planner.Warehouse, Pipeline: dr.scope.Pipeline, MissingOK: d.Before.Embedded,
		Calendar: func(ctx context.Context) (backfill.Calendar, error) {
			return d.Before.Planner.Calendar(ctx, dr.scope.Pipeline, now)
		},
	}
	outcomes, err := s.Complete(ctx, dr.scope, func(c backfill.Cell) bool { return r.complete[c] }, nil)
	if err != nil {
		d.complain(ctx, dr, "the data checks could not be run", err)
		return []string{"the data checks could not be run at the end: " + err.Error() + ": run sluice verify " + dr.scope.ID}
	}
	var notices []string
	for _, o := range outcomes {
		if o.Result == verify.Failed {
			notices = append(notices, fmt.Sprintf("check %s fails for %d dates: see sluice verify %s", o.Check.Name, len(o.Failures), dr.scope.ID))
		}
	}
	d.journal.add(verify.Journal(Name, dr.scope, now, outcomes)...)
	return notices
}

// expiry is when the documents of a backfill that ends now may be removed; zero for never.
func (d *Dispatcher) expiry() time.Time {
	if d.Keep <= 0 {
		return time.Time{}
	}
	return d.Now().Add(d.Keep)
}

// say journals what was done to a backfill as a whole.
func (d *Dispatcher) say(b *backfill.Backfill, e *pb.BackfillEvent, parts ...string) {
	e.BackfillId, e.Pipeline = b.ID, b.Request.Pipeline
	now := d.Now()
	d.journal.add(event.Journal(Name, now, e, append(parts, now.String())...))
}
