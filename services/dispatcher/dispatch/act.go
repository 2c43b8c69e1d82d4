package dispatch

import (
	"context"
	"slices"
	"strconv"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// onTrigger looks at a date whose gate has opened. The mark in the document is the truth, so a trigger for
// a backfill that another instance drives can be acknowledged after waking that instance.
func (d *Dispatcher) onTrigger(ctx context.Context, e *event.Event) error {
	m, ok := e.Data.(*pb.PhaseTriggered)
	if !ok {
		return fault.New(fault.Invalid, "event %s of type %s is no trigger", e.ID, e.Type)
	}
	date, err := backfill.ParseDate(m.GetDate())
	if err != nil {
		return fault.New(fault.Invalid, "event %s: %w", e.ID, err)
	}
	dr := d.drive(m.GetBackfillId())
	if dr == nil {
		return d.pass(ctx, m.GetBackfillId(), date)
	}
	ph, ok := dr.scope.Pipeline.Phase(m.GetPhase())
	if !ok || ph.Trigger.HTTP == nil {
		return d.look(ctx, dr, date)
	}
	// What is known of the date, with the marks that the trigger tells of, says what to call. It may be behind, so
	// it is checked again when the dispatch is on record, and attempts that look overdue are left to the sweep.
	rec, err := d.lately(ctx, dr, date)
	if err != nil {
		return err
	}
	for _, name := range m.GetProcessors() {
		rec = rec.Add(backfill.Fact{
			Key: backfill.Key{Phase: m.GetPhase(), Processor: name, Kind: backfill.Triggered}, Value: backfill.Value{At: e.Time},
		})
	}
	if slices.ContainsFunc(m.GetProcessors(), func(name string) bool {
		proc, ok := ph.Processor(name)
		return ok && rec.Run(dr.scope.ID, ph, proc).State == backfill.RunRetrying
	}) {
		return d.look(ctx, dr, date) // it reported by itself, and without success, before it was let through
	}
	found := dr.scope.Examine(&rec, d.Now(), false)
	found.Expired = nil
	return d.act(ctx, dr, &rec, found)
}

// pass has the instance that drives a backfill look at a date soon.
func (d *Dispatcher) pass(ctx context.Context, id string, date backfill.Date) error {
	_, err := d.Store.Merge(ctx, id, date, d.Now())
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// act does what a look at a record asks for.
func (d *Dispatcher) act(ctx context.Context, dr *drive, rec *backfill.Record, f backfill.Findings) error {
	if err := d.expire(ctx, dr, rec, f.Expired); err != nil {
		return err
	}
	if s := dr.current(); s == backfill.StateCancelling || s.Ended() {
		return nil
	}
	jobs, own := dr.scope.Jobs(rec.Date, f.Ready)
	d.mu.Lock()
	for _, j := range jobs {
		d.sched.Offer(j)
	}
	d.mu.Unlock()
	d.signal()
	if len(own) == 0 {
		return nil
	}
	waits := make([]backfill.Fact, len(own))
	deadline := time.Time{}
	for i, w := range own {
		ph, _ := dr.scope.Pipeline.Phase(w.Phase)
		proc, _ := ph.Processor(w.Processor)
		waits[i] = dispatched(w, d.Now(), ph.Allowance(proc, dr.inFlight(w.Phase)))
		deadline = backfill.Sooner(deadline, waits[i].At.Add(waits[i].Within))
	}
	merged, err := d.Store.Merge(ctx, dr.scope.ID, rec.Date, deadline, waits...)
	if err == nil {
		d.observe(dr, &merged)
	}
	return err
}

func dispatched(w backfill.Work, at time.Time, within time.Duration) backfill.Fact {
	return backfill.Fact{
		Key:   backfill.Key{Phase: w.Phase, Processor: w.Processor, Attempt: w.Attempt, Kind: backfill.Dispatched},
		Value: backfill.Value{At: at, Within: within},
	}
}

// settleIn is how long after taking a backfill over no attempt is called late: what ended while nobody drove it may
// still be on its way to the record.
const settleIn = 3 * time.Second

// expire reports attempts that had their time as failed. A call that is still being made has its own timeout.
func (d *Dispatcher) expire(ctx context.Context, dr *drive, rec *backfill.Record, expired []backfill.Expired) error {
	if d.Now().Sub(dr.began) < settleIn {
		return nil // they are looked at again
	}
	for _, x := range expired {
		key := backfill.RunKey{
			Lane: backfill.Lane{Backfill: dr.scope.ID, Phase: x.Phase}, Date: rec.Date, Processor: x.Processor,
		}
		dr.mu.Lock()
		calling := dr.calling[key]
		dr.mu.Unlock()
		if calling {
			continue
		}
		err := d.report(ctx, dr, key, x.Attempt, outcome{
			status: "failed", retryable: true, message: "no completion within " + x.Within.String(), at: x.Deadline,
		})
		if err != nil {
			return err
		}
		d.finish(key, backfill.Overloaded, "timeout")
	}
	return nil
}

// outcome is how an attempt ended, as a completion will tell it.
type outcome struct {
	status    string
	retryable bool
	message   string
	started   time.Time
	at        time.Time
	records   int64
}

// report publishes a completion on behalf of a processor that does not report by itself.
func (d *Dispatcher) report(ctx context.Context, dr *drive, k backfill.RunKey, attempt int, o outcome) error {
	m := &pb.ProcessorCompleted{
		BackfillId: dr.scope.ID, Pipeline: dr.scope.Pipeline.Name, Date: k.Date.String(), Phase: k.Phase, Processor: k.Processor,
		Attempt: int32(attempt), Status: o.status, Message: o.message, Records: o.records,
	}
	if o.status == "failed" {
		m.Retryable = &o.retryable
	}
	if !o.started.IsZero() {
		m.StartedAt, m.FinishedAt = stamp(o.started), stamp(o.at)
	}
	subject := event.Subject(m.GetBackfillId(), m.GetDate(), m.GetPhase(), m.GetProcessor())
	return d.Bus.Publish(ctx, event.TopicCompletions,
		event.New(event.TypeCompleted, Name, subject, o.at, m, o.status, strconv.Itoa(attempt)))
}

// finish ends a run for admission.
func (d *Dispatcher) finish(k backfill.RunKey, a backfill.Answer, reason string) {
	d.mu.Lock()
	d.sched.Finish(k, a, reason, d.Now())
	d.mu.Unlock()
	d.signal()
}

// sweep looks at the dates whose time has come.
func (d *Dispatcher) sweep(ctx context.Context, dr *drive) {
	now := d.Now()
	due, err := d.Store.Due(ctx, dr.scope.ID, now, 200)
	if err != nil {
		d.complain(ctx, dr, "cannot look for due dates", err)
		return
	}
	for _, date := range due {
		if err := d.look(ctx, dr, date); err != nil {
			d.complain(ctx, dr, "cannot look after a due date", err)
			return
		}
	}
}

func (d *Dispatcher) look(ctx context.Context, dr *drive, date backfill.Date) error {
	rec, err := d.Store.Date(ctx, dr.scope.ID, date)
	if err != nil {
		return err
	}
	d.observe(dr, &rec)
	d.reconcile(dr, &rec)
	now := d.Now()
	f := dr.scope.Examine(&rec, now, false)
	if err := d.act(ctx, dr, &rec, f); err != nil {
		return err
	}
	next := f.Next
	if len(f.Expired) > 0 {
		next = backfill.Sooner(next, now.Add(d.Tick*10)) // until the failure is recorded
	}
	same, err := d.Store.Rearm(ctx, dr.scope.ID, rec, next)
	if err == nil && !same && !next.IsZero() {
		// Something happened to the date meanwhile. It may be looked at too often, but the timer must not be lost.
		_, err = d.Store.Merge(ctx, dr.scope.ID, rec.Date, next)
	}
	return err
}

func (d *Dispatcher) complain(ctx context.Context, dr *drive, what string, err error) {
	if ctx.Err() == nil {
		d.Log.ErrorContext(ctx, what, "backfill_id", dr.scope.ID, "error", err)
	}
}
