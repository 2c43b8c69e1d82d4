package dispatch

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/telemetry"
	pb "sluice.dev/proto/gen/sluice/v1"
)

func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

// start records the attempts of jobs that share a date in one write, then makes the calls. What is not
// wanted any more, because the record has moved on since it was queued, is dropped here.
func (d *Dispatcher) start(dr *drive, jobs []backfill.Job) {
	ctx, now := dr.ctx, d.Now()
	if d.stopping() || !dr.holds(now) {
		d.putBack(dr, jobs, now)
		return
	}
	rec, err := d.lately(ctx, dr, jobs[0].Date)
	if err != nil {
		d.complain(ctx, dr, "cannot read a date: its calls are put back", err)
		d.putBack(dr, jobs, now)
		return
	}
	wanted := make([]backfill.Job, 0, len(jobs))
	var facts []backfill.Fact
	deadline := time.Time{}
	for _, j := range jobs {
		if j = d.stillWanted(dr, &rec, j); len(j.Processors) == 0 {
			continue
		}
		wanted = append(wanted, j)
		ph, _ := dr.scope.Pipeline.Phase(j.Phase)
		for i, name := range j.Processors {
			proc, _ := ph.Processor(name)
			within := ph.Allowance(proc, 0)
			facts = append(facts, dispatched(backfill.Work{Ref: backfill.Ref{Phase: j.Phase, Processor: name}, Attempt: j.Attempts[i]}, now, within))
			deadline = backfill.Sooner(deadline, now.Add(within))
		}
	}
	if len(wanted) == 0 {
		return
	}
	if rec, err = d.Store.Merge(ctx, dr.scope.ID, rec.Date, deadline, facts...); err != nil {
		d.complain(ctx, dr, "cannot record a dispatch: its calls are put back", err)
		d.putBack(dr, wanted, now)
		return
	}
	d.observe(dr, &rec)
	again := false
	for _, j := range wanted {
		n := len(j.Processors)
		j = d.stillOpen(dr, &rec, j)
		again = again || len(j.Processors) < n
		if len(j.Processors) == 0 {
			continue
		}
		d.calls.Add(1)
		go func() { defer d.calls.Done(); d.call(dr, rec.Season, j) }()
	}
	d.journalDispatch(dr, rec.Date, facts)
	if again { // what was known was behind
		if err := d.look(ctx, dr, rec.Date); err != nil {
			d.complain(ctx, dr, "cannot look at a date: the sweep will", err)
		}
	}
}

// lately is the newest version seen of a date, which is read when there is none.
func (d *Dispatcher) lately(ctx context.Context, dr *drive, date backfill.Date) (backfill.Record, error) {
	if rec, ok := d.recent.Get(dr.scope, date); ok {
		return rec, nil
	}
	return d.Store.Date(ctx, dr.scope.ID, date)
}

// stillOpen leaves the processors whose attempt, now on record, has no outcome yet: what was known before may have
// been behind.
func (d *Dispatcher) stillOpen(dr *drive, rec *backfill.Record, j backfill.Job) backfill.Job {
	out := j
	out.Processors, out.Attempts = nil, nil
	ph, _ := dr.scope.Pipeline.Phase(j.Phase)
	for i, name := range j.Processors {
		proc, _ := ph.Processor(name)
		if run := rec.Run(dr.scope.ID, ph, proc); run.State != backfill.RunInFlight || run.Attempt != j.Attempts[i] || run.Accepted {
			key := backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: name}
			d.notCalling(dr, key)
			d.finish(key, backfill.Neutral, "")
			continue
		}
		out.Processors, out.Attempts = append(out.Processors, name), append(out.Attempts, j.Attempts[i])
	}
	return out
}

// stopping says that no new calls may be made.
func (d *Dispatcher) stopping() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// putBack queues jobs again that were admitted and not called.
func (d *Dispatcher) putBack(dr *drive, jobs []backfill.Job, now time.Time) {
	for _, j := range jobs {
		for _, name := range j.Processors {
			d.notCalling(dr, backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: name})
		}
		j.Repeat = true // it may have been recorded all the same
		d.mu.Lock()
		d.sched.PutBack(j, now.Add(time.Second), now)
		d.mu.Unlock()
	}
	d.signal()
}

// stillWanted leaves the processors whose attempt is still the one to make, and marks them as being called.
func (d *Dispatcher) stillWanted(dr *drive, rec *backfill.Record, j backfill.Job) backfill.Job {
	out := j
	out.Processors, out.Attempts = nil, nil
	ph, _ := dr.scope.Pipeline.Phase(j.Phase)
	for i, name := range j.Processors {
		proc, _ := ph.Processor(name)
		run := rec.Run(dr.scope.ID, ph, proc)
		key := backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: name}
		open := run.State == backfill.RunPending || run.State == backfill.RunRetrying || (j.Repeat && run.State == backfill.RunInFlight && !run.Accepted)
		if !open || run.Attempt != j.Attempts[i] {
			d.finish(key, backfill.Neutral, "")
			continue
		}
		dr.mu.Lock()
		dr.calling[key] = true
		dr.mu.Unlock()
		out.Processors, out.Attempts = append(out.Processors, name), append(out.Attempts, j.Attempts[i])
	}
	return out
}

// call makes one call and deals with the answer.
func (d *Dispatcher) call(dr *drive, season string, j backfill.Job) {
	ph, _ := dr.scope.Pipeline.Phase(j.Phase)
	retrigger := ph.Trigger.HTTP == nil
	defer func() {
		for _, name := range j.Processors {
			d.notCalling(dr, backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: name})
		}
	}()
	started := d.Now()
	ctx, ended := d.span(dr.ctx, dr.scope, j)
	ans := d.Caller.Call(ctx, dr.scope, dr.request.Reason, season, j)
	ended(ans)
	dr.called(ans)
	now := d.Now()
	d.Telemetry.Metrics.Count(ctx, telemetry.Calls, 1, "pipeline", dr.scope.Pipeline.Name, "phase", j.Phase, "answer", ans.kind.String())
	d.Telemetry.Metrics.Took(ctx, telemetry.CallDuration, now.Sub(started), "pipeline", dr.scope.Pipeline.Name, "phase", j.Phase)
	if retrigger && ans.kind == succeeded {
		ans.kind = accepted // the processor reports by itself
	}
	switch ans.kind {
	case throttled:
		d.throttled(dr, j, ans, now)
	case accepted:
		d.accept(dr, j, now, retrigger)
	case succeeded, failed:
		d.free(j, ans, true)
		d.answered(dr, j, ans, started, now)
	case interrupted:
		d.free(j, ans, false)
	}
}

// free ends the runs of a call for admission; with an outcome, which is then to be recorded.
func (d *Dispatcher) free(j backfill.Job, ans answer, outcome bool) {
	d.mu.Lock()
	for _, name := range j.Processors {
		k := backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: name}
		if outcome {
			d.sched.Answered(k, ans.calm(), ans.message, d.Now())
		} else {
			d.sched.Finish(k, ans.calm(), ans.message, d.Now())
		}
	}
	d.mu.Unlock()
	d.signal()
}

// answered reports a final answer for every processor of the call. It does not give up while the backfill
// is driven: an answer that is lost here would be asked for again.
func (d *Dispatcher) answered(dr *drive, j backfill.Job, ans answer, started, now time.Time) {
	o := outcome{status: "succeeded", message: ans.message, started: started, at: now}
	if ans.kind == failed {
		o.status, o.retryable = "failed", ans.retryable
	}
	ctx := context.WithoutCancel(dr.ctx)
	for i, name := range j.Processors {
		k := backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: name}
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
			err := d.report(ctx, dr, k, j.Attempts[i], o)
			if err == nil {
				break
			}
			d.complain(ctx, dr, "cannot publish a completion", err)
			select {
			case <-time.After(wait):
			case <-dr.ctx.Done():
				return
			}
		}
	}
}

// accept records that the target has taken the work. Its slot stays taken until the outcome is known, unless the work
// was only started again, by the earlier phase that feeds it.
func (d *Dispatcher) accept(dr *drive, j backfill.Job, now time.Time, retrigger bool) {
	facts := make([]backfill.Fact, len(j.Processors))
	for i, name := range j.Processors {
		facts[i] = backfill.Fact{
			Key:   backfill.Key{Phase: j.Phase, Processor: name, Attempt: j.Attempts[i], Kind: backfill.Accepted},
			Value: backfill.Value{At: now},
		}
	}
	rec, err := d.Store.Merge(context.WithoutCancel(dr.ctx), dr.scope.ID, j.Date, time.Time{}, facts...)
	if err == nil {
		d.recent.Saw(dr.scope, &rec)
	} else {
		// That is safe: after a restart the call is repeated under the same key.
		d.complain(dr.ctx, dr, "cannot record an acceptance", err)
	}
	ph, _ := dr.scope.Pipeline.Phase(j.Phase)
	for i, name := range j.Processors {
		k := backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: name}
		d.notCalling(dr, k)
		proc, _ := ph.Processor(name)
		over := retrigger
		if err == nil {
			run := rec.Run(dr.scope.ID, ph, proc)
			over = over || run.State != backfill.RunInFlight || run.Attempt != j.Attempts[i]
		}
		if over {
			d.finish(k, backfill.Calm, "")
			continue
		}
		d.mu.Lock()
		d.sched.Returned(k)
		d.mu.Unlock()
	}
	d.signal()
}

func (d *Dispatcher) throttled(dr *drive, j backfill.Job, ans answer, now time.Time) {
	for _, name := range j.Processors {
		d.notCalling(dr, backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: name})
	}
	wait := ans.retryAfter
	if wait <= 0 {
		ph, _ := dr.scope.Pipeline.Phase(j.Phase)
		proc, _ := ph.Processor(j.Processors[0])
		wait = proc.Backoff.Initial
	}
	j.Repeat = true
	d.mu.Lock()
	d.sched.Throttled(j, now.Add(wait), ans.message, now)
	d.mu.Unlock()
	d.signal()
}

func (d *Dispatcher) notCalling(dr *drive, k backfill.RunKey) {
	dr.mu.Lock()
	delete(dr.calling, k)
	dr.mu.Unlock()
}

// journalDispatch tells the journal.
func (d *Dispatcher) journalDispatch(dr *drive, date backfill.Date, facts []backfill.Fact) {
	events := make([]*event.Event, len(facts))
	for i, f := range facts {
		e := &pb.BackfillEvent{
			BackfillId: dr.scope.ID, Pipeline: dr.scope.Pipeline.Name, Kind: "dispatched", Date: date.String(), Phase: f.Phase, Processor: f.Processor,
			Attempt: int32(f.Attempt),
		}
		events[i] = event.Journal(Name, f.At, e)
	}
	d.journal.add(events...)
}

func (d *Dispatcher) journalWindows(ctx context.Context, changes []backfill.WindowChange, now time.Time) {
	for _, c := range changes {
		if c.Reason != "calm" { // growth is slow and steady; for the log the shrinking tells the story
			d.Log.InfoContext(ctx, "window changed", "backfill_id", c.Backfill, "phase", c.Phase, "limit", c.Limit, "reason", c.Reason)
		}
		d.journal.add(event.Journal(Name, now, &pb.BackfillEvent{
			BackfillId: c.Backfill, Kind: "window_changed", Phase: c.Phase, Message: c.Reason, Records: int64(c.Limit),
		}, now.String()))
	}
}
