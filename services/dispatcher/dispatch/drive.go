package dispatch

import (
	"context"
	"sync"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/telemetry"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// drive is a backfill that this instance holds the lease of.
type drive struct {
	scope   *backfill.Scope
	request backfill.Request
	planned backfill.Planned
	created time.Time
	began   time.Time // when this instance began to drive it
	epoch   int64
	ctx     context.Context // ends with the calls of the backfill
	cancel  context.CancelFunc
	flushed time.Time
	doc     sync.Mutex // held over changes of the backfill's document that come again and again

	mu       sync.Mutex
	expires  time.Time // of the lease
	state    backfill.State
	calling  map[backfill.RunKey]bool // calls that have not been answered
	progress progress
	nextLook time.Time // when settle may look again
	heard    time.Time // when the last completion was heard of
	budget   float64
	patience time.Duration
}

func (dr *drive) current() backfill.State {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	return dr.state
}

// holds says whether the lease is still ours; without it nothing may be dispatched.
func (dr *drive) holds(now time.Time) bool {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	return now.Before(dr.expires)
}

// leads says whether this instance may drive a pipeline's backfills: the holder of the oldest that is driven does.
// One instance drives all of a pipeline's backfills, so that the limiters that they share hold for all of them.
func (d *Dispatcher) leads(all []*backfill.Backfill, pipeline string) bool {
	now := d.Now()
	var oldest *backfill.Backfill
	for _, b := range all {
		if b.Request.Pipeline != pipeline || b.State.Ended() || b.Lease.Holder == "" || !b.Lease.Expires.After(now) {
			continue
		}
		if oldest == nil || b.CreatedAt.Before(oldest.CreatedAt) || (b.CreatedAt.Equal(oldest.CreatedAt) && b.ID < oldest.ID) {
			oldest = b
		}
	}
	return oldest == nil || oldest.Lease.Holder == d.Holder
}

// yield leaves a backfill to the instance that drives the pipeline's others.
func (d *Dispatcher) yield(ctx context.Context, id string) {
	dr := d.drive(id)
	if dr == nil {
		return
	}
	d.Log.InfoContext(ctx, "another instance drives this pipeline: leaving the backfill to it", "backfill_id", id)
	d.drop(dr)
	if err := d.Store.Release(ctx, id, d.Holder); err != nil {
		d.Log.WarnContext(ctx, "lease not released: it will expire", "backfill_id", id, "error", err)
	}
}

// adopt takes over running backfills that nobody drives.
func (d *Dispatcher) adopt(ctx context.Context) {
	all, err := d.Store.ListBackfills(ctx)
	if err != nil {
		if ctx.Err() == nil {
			d.Log.ErrorContext(ctx, "cannot list backfills", "error", err)
		}
		return
	}
	unowned := 0
	defer func() {
		d.mu.Lock()
		d.unowned = unowned
		d.mu.Unlock()
	}()
	for _, b := range all {
		if running(b.State) && !b.Lease.Expires.After(d.Now()) && d.drive(b.ID) == nil {
			unowned++
		}
		switch b.State {
		case backfill.StateActive, backfill.StatePausing, backfill.StatePaused, backfill.StateCancelling:
			if !d.leads(all, b.Request.Pipeline) {
				d.yield(ctx, b.ID)
				continue
			}
			if d.drive(b.ID) != nil {
				continue // renewLoop keeps it
			}
			if err := d.take(ctx, b.ID); err != nil && !fault.Is(err, fault.Conflict) && ctx.Err() == nil {
				d.Log.ErrorContext(ctx, "cannot drive backfill", "backfill_id", b.ID, "error", err)
			}
		case backfill.StatePlanning, backfill.StateRefused, backfill.StateCancelled, backfill.StateCompleted, backfill.StateIncomplete:
		}
	}
}

// running says whether somebody should drive a backfill that is in a state.
func running(s backfill.State) bool { return !s.Ended() && s != backfill.StatePlanning }

// renew prolongs the lease of a backfill that is driven. When it is lost, or had lapsed, driving ends; adopt begins
// again where that is ours to do.
func (d *Dispatcher) renew(ctx context.Context, dr *drive) {
	dr.doc.Lock()
	lease, err := d.Store.Acquire(ctx, dr.scope.ID, d.Holder, d.Now(), d.LeaseTTL)
	dr.doc.Unlock()
	switch {
	case err == nil && lease.Epoch == dr.epoch:
		dr.mu.Lock()
		dr.expires = lease.Expires
		dr.mu.Unlock()
	case err == nil || fault.Is(err, fault.Conflict):
		d.Telemetry.Metrics.Count(ctx, telemetry.LeasesLost, 1)
		d.Log.WarnContext(ctx, "the lease was lost", "backfill_id", dr.scope.ID, "epoch", dr.epoch)
		d.drop(dr)
	case ctx.Err() == nil:
		d.complain(ctx, dr, "cannot renew the lease", err)
	}
}

// take acquires or renews the lease of a backfill and starts to drive it when it did not before.
func (d *Dispatcher) take(ctx context.Context, id string) error {
	now := d.Now()
	lease, err := d.Store.Acquire(ctx, id, d.Holder, now, d.LeaseTTL)
	dr := d.drive(id)
	if err != nil {
		if dr != nil && fault.Is(err, fault.Conflict) {
			d.drop(dr)
		}
		return err
	}
	if dr != nil && dr.epoch == lease.Epoch {
		dr.mu.Lock()
		dr.expires = lease.Expires
		dr.mu.Unlock()
		return nil
	}
	if dr != nil {
		d.drop(dr)
	}
	if !d.mayBegin(id) {
		return fault.New(fault.Conflict, "backfill %s is just being taken over", id)
	}
	defer d.begun(id)
	return d.begin(ctx, id, lease)
}

// mayBegin keeps a backfill from being begun twice at once, which would repeat what the first has just called.
func (d *Dispatcher) mayBegin(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.begins[id] || d.driven[id] != nil {
		return false
	}
	d.begins[id] = true
	return true
}

func (d *Dispatcher) begun(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.begins, id)
}

// drop stops driving without ending the backfill: somebody else drives it now.
func (d *Dispatcher) drop(dr *drive) {
	dr.cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driven[dr.scope.ID] == dr { // not one that has begun since
		delete(d.driven, dr.scope.ID)
		d.sched.Remove(dr.scope.ID)
	}
}

// begin loads a backfill, finds out from its documents where it stands, and goes on from there.
func (d *Dispatcher) begin(ctx context.Context, id string, lease backfill.Lease) error {
	b, err := d.Store.Backfill(ctx, id)
	if err != nil {
		return err
	}
	p, err := d.Store.Pipeline(ctx, b.Request.Pipeline, b.Version)
	if err != nil {
		return err
	}
	scope := backfill.NewScope(b, p)
	dr := &drive{
		scope: scope, request: b.Request, planned: b.Planned, created: b.CreatedAt, began: d.Now(), epoch: lease.Epoch, expires: lease.Expires, state: b.State,
		calling: map[backfill.RunKey]bool{}, progress: newProgress(scope, b.Progress), flushed: d.Now(), heard: d.Now(), budget: b.Budget.USD,
	}
	dr.ctx, dr.cancel = context.WithCancel(context.Background())
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		dr.cancel()
		return fault.New(fault.Unavailable, "the dispatcher is stopping")
	}
	d.driven[id] = dr
	d.sched.Add(id, p, b.Limits)
	d.sched.Pause(id, b.State != backfill.StateActive)
	d.mu.Unlock()
	d.Log.InfoContext(ctx, "driving backfill", "backfill_id", id, "epoch", lease.Epoch, "dates", dr.scope.Dates.Len())
	return d.resume(ctx, dr, true)
}

// resume walks all dates once: it counts them, repeats calls that were lost with an earlier process (after
// a restart), and has the gate look at every date that is not complete.
func (d *Dispatcher) resume(ctx context.Context, dr *drive, restart bool) error {
	var batch []*event.Event
	publish := func(least int) error {
		if len(batch) < least {
			return nil
		}
		err := d.Bus.Publish(ctx, event.TopicPhaseCompletions, batch...)
		batch = nil
		return err
	}
	err := d.scan(ctx, dr, func(rec backfill.Record) error {
		d.observe(dr, &rec)
		if dr.scope.DateComplete(&rec) {
			return nil
		}
		found := dr.scope.Examine(&rec, d.Now(), restart)
		d.occupy(dr, rec.Date, found.Running)
		if err := d.act(ctx, dr, &rec, found); err != nil {
			return err
		}
		batch = append(batch, d.changed(dr, rec.Date, "resumed"))
		return publish(100)
	})
	if err != nil {
		return err
	}
	return publish(1)
}

// occupy has admission count runs that an earlier process started and that will report by themselves.
func (d *Dispatcher) occupy(dr *drive, date backfill.Date, running []backfill.Work) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range running {
		lane := backfill.Lane{Backfill: dr.scope.ID, Phase: w.Phase}
		d.sched.Occupy(backfill.RunKey{Lane: lane, Date: date, Processor: w.Processor}, w.Attempt, d.Now())
	}
}

func (d *Dispatcher) scan(ctx context.Context, dr *drive, f func(backfill.Record) error) error {
	dates := dr.scope.Dates
	return d.Store.ScanDates(ctx, dr.scope.ID, dates.At(0).Date, dates.At(dates.Len()-1).Date, f)
}

// changed asks the gate to look at a date.
func (d *Dispatcher) changed(dr *drive, date backfill.Date, reason string) *event.Event {
	m := &pb.PhaseProgressed{BackfillId: dr.scope.ID, Pipeline: dr.scope.Pipeline.Name, Date: date.String(), Reason: reason}
	return event.New(event.TypeDateChanged, Name, event.Subject(m.GetBackfillId(), m.GetDate()), d.Now(), m, reason)
}
