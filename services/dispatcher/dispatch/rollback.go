package dispatch

import (
	"context"
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/rollback"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// rollback deletes what phases of an ended backfill wrote, or puts it back. It owns the dates while it does. When it is
// stopped, the control is delivered again and it goes on.
func (d *Dispatcher) rollback(ctx context.Context, b *backfill.Backfill, m *pb.BackfillControlled, e *event.Event) error {
	ctx = warehouse.ForBackfill(ctx, b.ID)
	p, err := d.Store.Pipeline(ctx, b.Request.Pipeline, b.Version)
	if err != nil {
		return err
	}
	if !m.GetUndo() && finishedBy(b, e) {
		return nil // delivered again
	}
	w := d.Before.Planner.Warehouse
	r, err := rollback.Plan(ctx, w, b, p, m, e.Time, e.ID)
	if fault.Is(err, fault.Invalid) {
		return d.notice(ctx, b.Request, "rollback has no effect: "+err.Error())
	}
	if err != nil {
		return err
	}
	if err := d.claim(ctx, p.Name, b.ID, r.Dates); fault.Is(err, fault.Conflict) {
		return d.notice(ctx, b.Request, "rollback has no effect: "+err.Error())
	} else if err != nil {
		return err
	}
	save := func(r *backfill.Rollback) error {
		_, err := d.Store.UpdateBackfill(ctx, b.ID, 0, func(b *backfill.Backfill) error {
			if why := b.State.Refuses("rollback"); why != "" {
				return fault.New(fault.Refused, "%s", why)
			}
			for i := range b.Rollbacks {
				if b.Rollbacks[i].ID == r.ID {
					b.Rollbacks[i] = *r
					return nil
				}
			}
			b.Rollbacks = append(b.Rollbacks, *r)
			return nil
		})
		return err
	}
	if err := save(r); err != nil {
		return d.unlessRefused(ctx, b, err)
	}
	err = rollback.Steps{Warehouse: w, Now: d.Now, Save: save, Done: func(t *backfill.RollbackTable) error {
		d.Log.InfoContext(ctx, "rollback", "backfill_id", b.ID, "table", t.Table, "state", string(t.State), "rows", t.Deleted)
		d.say(b, &pb.BackfillEvent{
			Kind: "rollback_" + string(t.State), Phase: t.Phase, Message: t.Table + ", snapshot " + t.Snapshot, Records: t.Deleted,
			RequestedBy: r.By, Data: t.Table,
		}, r.ID, t.Table)
		return nil
	}}.Run(ctx, r)
	if fault.Is(err, fault.NotFound) {
		if err := d.Store.Unclaim(ctx, p.Name, b.ID); err != nil {
			return err
		}
		return d.notice(ctx, b.Request, "rollback cannot go on: "+err.Error())
	}
	if err != nil {
		return d.unlessRefused(ctx, b, err)
	}
	if err := d.Store.Unclaim(ctx, p.Name, b.ID); err != nil {
		return err
	}
	kind := "rolled_back"
	if r.Undo {
		kind = "rollback_undone"
	}
	d.say(b, &pb.BackfillEvent{Kind: kind, RequestedBy: r.By, Message: r.Reason}, r.ID)
	if r.Undo || r.Rerun == "" {
		return nil
	}
	known, err := d.others(ctx, b, p, r)
	if err != nil {
		return err
	}
	again := rollback.Rerun(b, p, r, known)
	return d.Bus.Publish(ctx, event.TopicRequests, event.New(event.TypeRequested, Name, r.Rerun, e.Time, again, r.ID))
}

// others lists the dates on which every phase of the backfill that was not rolled back is complete.
func (d *Dispatcher) others(ctx context.Context, b *backfill.Backfill, p *backfill.Pipeline, r *backfill.Rollback) ([]backfill.Date, error) {
	scope := backfill.NewScope(b, p)
	var out []backfill.Date
	err := d.Store.ScanDates(ctx, b.ID, b.Dates.At(0).Date, b.Dates.At(b.Dates.Len()-1).Date, func(rec backfill.Record) error {
		for _, ph := range scope.Phases(rec.Season) {
			later := slices.Contains(p.Built(r.Phases), ph.ID)
			if !later && !slices.Contains(r.Phases, ph.ID) && !scope.Complete(&rec, ph.ID) {
				return nil
			}
		}
		out = append(out, rec.Date)
		return nil
	})
	return out, err
}

// finishedBy says that a rollback that this very control asked for is over.
func finishedBy(b *backfill.Backfill, e *event.Event) bool {
	id := backfill.RollbackID(e.Time) + "_" + event.ID(b.ID, e.ID)[:6]
	for i := range b.Rollbacks {
		if b.Rollbacks[i].ID == id && !b.Rollbacks[i].Open() {
			return true
		}
	}
	return false
}

// unlessRefused leaves a notice where the backfill has meanwhile begun again.
func (d *Dispatcher) unlessRefused(ctx context.Context, b *backfill.Backfill, err error) error {
	if fault.Is(err, fault.Refused) {
		return d.notice(ctx, b.Request, "rollback has no effect: "+err.Error())
	}
	return err
}

// forget removes the documents of an ended backfill. Its journal stays.
func (d *Dispatcher) forget(ctx context.Context, b *backfill.Backfill, m *pb.BackfillControlled) error {
	if err := d.Store.Forget(ctx, b.ID); err != nil {
		return err
	}
	d.Log.InfoContext(ctx, "backfill forgotten", "backfill_id", b.ID)
	d.say(b, &pb.BackfillEvent{Kind: "forgotten", RequestedBy: m.GetRequestedBy(), Message: m.GetReason()})
	return nil
}

// purge removes the documents that have expired, where the store does not do so by itself.
func (d *Dispatcher) purge(ctx context.Context, now time.Time) {
	gone, err := state.Purge(ctx, d.Store, now)
	if len(gone) > 0 {
		d.Log.InfoContext(ctx, "documents of old backfills removed", "backfills", gone)
	}
	if err != nil && ctx.Err() == nil {
		d.Log.ErrorContext(ctx, "cannot remove documents of old backfills", "error", err)
	}
}
