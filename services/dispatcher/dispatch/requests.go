package dispatch

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/report"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// onRequest plans a backfill and makes it active, or refuses it with everything that is wrong with it.
// Delivered again, it goes on where it stopped.
func (d *Dispatcher) onRequest(ctx context.Context, e *event.Event) error {
	m, ok := e.Data.(*pb.BackfillRequested)
	if !ok {
		return d.refuse(ctx, unread(e), e.Err())
	}
	req, err := planner.Check(m)
	if req.ID == "" || (err != nil && fault.Is(err, fault.Invalid) && !validID(req.ID)) {
		req.ID = "request-" + event.ID(e.ID)[:12]
	}
	if err != nil {
		return d.refuse(ctx, req, err)
	}
	if old, err := d.Store.Backfill(ctx, req.ID); err == nil && old.State != backfill.StateRefused {
		if !planner.Same(old.Request, req) {
			return d.notice(ctx, req, "a request with the id "+req.ID+" and other content was refused: the id is taken, choose another")
		}
		if old.State != backfill.StatePlanning {
			return nil // the same request again: one backfill
		}
	} else if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	checked, err := d.Before.Request(warehouse.ForBackfill(ctx, req.ID), req, d.Now())
	if err == nil {
		err = checked.Err()
	}
	if fault.Is(err, fault.Invalid) {
		return d.refuse(ctx, req, err)
	}
	if err != nil {
		return err // it may go away: the request comes round again
	}
	plan := checked.Plan
	plan.Backfill.Planned = checked.Forecast.Planned()
	if req.DryRun {
		return d.dryRun(ctx, plan)
	}
	return d.activate(ctx, plan)
}

func validID(id string) bool {
	_, err := planner.Check(&pb.BackfillRequested{
		BackfillId: id, Pipeline: "p", Dates: &pb.DateSelection{Seasons: []string{"s"}},
	})
	return err == nil
}

// unread is as much of a request as can be told from a message that could not be read.
func unread(e *event.Event) backfill.Request {
	var m struct {
		BackfillID string `json:"backfill_id"`
		Pipeline   string `json:"pipeline"`
	}
	_ = json.Unmarshal(e.Raw, &m) // what is wrong with it is in the event's faults already
	if m.BackfillID == "" || !validID(m.BackfillID) {
		m.BackfillID = "request-" + event.ID(e.ID)[:12]
	}
	return backfill.Request{ID: m.BackfillID, Pipeline: m.Pipeline}
}

// activate writes the documents. Every step can be repeated.
func (d *Dispatcher) activate(ctx context.Context, plan *planner.Plan) error {
	b, id := plan.Backfill, plan.Backfill.ID
	if err := d.Store.PutPipeline(ctx, b.Version, plan.Pipeline); err != nil {
		return err
	}
	dates := make([]backfill.Date, b.Dates.Len())
	for i := range dates {
		dates[i] = b.Dates.At(i).Date
	}
	err := d.claim(ctx, plan.Pipeline.Name, id, dates)
	if fault.Is(err, fault.Conflict) {
		return d.refuse(ctx, b.Request, fault.List{err.Error() + ": wait for it, cancel it, or choose other dates"}.Err())
	}
	if err != nil {
		return err
	}
	b.Progress = planned(plan)
	stored, err := d.create(ctx, b)
	if err != nil {
		return err
	}
	if stored.State != backfill.StatePlanning {
		return nil
	}
	if err := d.Store.CreateDates(ctx, id, plan.Records); err != nil {
		return err
	}
	_, err = d.Store.UpdateBackfill(ctx, id, 0, func(b *backfill.Backfill) error {
		if b.State == backfill.StatePlanning {
			b.State = backfill.StateActive
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.journal.add(activation(b, plan)...)
	all, err := d.Store.ListBackfills(ctx)
	if err != nil || !d.leads(all, plan.Pipeline.Name) {
		return err // whoever drives the pipeline finds it
	}
	if err := d.take(ctx, id); err != nil && !fault.Is(err, fault.Conflict) {
		return err
	}
	return nil
}

// create stores a new backfill. An id that was forgotten a moment ago is waited for.
func (d *Dispatcher) create(ctx context.Context, b *backfill.Backfill) (*backfill.Backfill, error) {
	for began := time.Now(); ; {
		stored, _, err := d.Store.CreateBackfill(ctx, b)
		if !fault.Is(err, fault.Unavailable) || time.Since(began) > 2*state.Grave {
			return stored, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// activation is what the journal has to know to tell a backfill without its documents: what was asked for, what was
// planned, and what history had.
func activation(b *backfill.Backfill, plan *planner.Plan) []*event.Event {
	line := func(e *pb.BackfillEvent) *event.Event {
		e.BackfillId, e.Pipeline = b.ID, plan.Pipeline.Name
		return event.Journal(Name, b.CreatedAt, e)
	}
	out := []*event.Event{line(&pb.BackfillEvent{
		Kind: "activated", RequestedBy: b.Request.RequestedBy, Message: b.Request.Reason, Records: int64(b.Dates.Len()),
		Data: report.Encode(report.Activate(b, plan.Pipeline)),
	})}
	for i := range plan.Records {
		rec := &plan.Records[i]
		for j := range plan.Pipeline.Phases {
			ph := &plan.Pipeline.Phases[j]
			var names []string
			for k := range ph.Processors {
				if rec.Has(backfill.Key{Phase: ph.ID, Processor: ph.Processors[k].Name, Kind: backfill.Skipped}) {
					names = append(names, ph.Processors[k].Name)
				}
			}
			if len(names) > 0 {
				out = append(out, line(&pb.BackfillEvent{
					Kind: "skipped", Date: rec.Date.String(), Phase: ph.ID, Records: int64(len(names)), Data: report.Encode(names), Message: "already succeeded in history",
				}))
			}
		}
	}
	return out
}

// claim takes dates. One that ended and was stopped before it had freed them does not own them any more.
func (d *Dispatcher) claim(ctx context.Context, pipeline, id string, dates []backfill.Date) error {
	for {
		conflict := d.Store.Claim(ctx, pipeline, id, dates)
		if !fault.Is(conflict, fault.Conflict) {
			return conflict
		}
		owner, err := d.otherOwner(ctx, pipeline, id, dates)
		if err != nil || owner == "" { // freed meanwhile
			if err == nil {
				continue
			}
			return err
		}
		b, err := d.Store.Backfill(ctx, owner)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		if err == nil && !b.State.Ended() {
			return conflict
		}
		d.Log.WarnContext(ctx, "dates of an ended backfill are freed", "backfill_id", owner)
		if err := d.Store.Unclaim(ctx, pipeline, owner); err != nil {
			return err
		}
	}
}

// otherOwner finds a backfill that owns one of the dates.
func (d *Dispatcher) otherOwner(ctx context.Context, pipeline, id string, dates []backfill.Date) (string, error) {
	for _, date := range dates {
		owner, err := d.Store.Owner(ctx, pipeline, date)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return "", err
		}
		if err == nil && owner != id {
			return owner, nil
		}
	}
	return "", nil
}

// planned is the progress of a backfill of which nothing has been done yet.
func planned(plan *planner.Plan) backfill.Progress {
	scope := backfill.NewScope(plan.Backfill, plan.Pipeline)
	p := newProgress(scope, backfill.Progress{})
	for i := range plan.Records {
		rec := &plan.Records[i]
		for _, ph := range scope.Phases(rec.Season) {
			p.learn(backfill.Cell{Date: rec.Date, Phase: ph.ID}, rec.Len(), scope.Tally(rec, ph))
		}
	}
	return p.snapshot(plan.Backfill.CreatedAt)
}

// dryRun records what a request would do, and does nothing of it.
func (d *Dispatcher) dryRun(ctx context.Context, plan *planner.Plan) error {
	b := plan.Backfill
	b.State, b.FinishedAt, b.Progress, b.ExpiresAt = backfill.StateCompleted, b.CreatedAt, planned(plan), d.expiry()
	_, err := d.create(ctx, b)
	return err
}

// refuse records a request that cannot be served. It is not retried: the faults will not go away by themselves.
func (d *Dispatcher) refuse(ctx context.Context, req backfill.Request, why error) error {
	now := d.Now()
	faults := fault.Faults(why)
	b := &backfill.Backfill{
		ID: req.ID, Request: req, State: backfill.StateRefused, Faults: faults, CreatedAt: now, FinishedAt: now, ExpiresAt: d.expiry(),
	}
	_, created, err := d.Store.CreateBackfill(ctx, b)
	if err != nil {
		return err
	}
	if !created {
		return d.notice(ctx, req, "a request with the id "+req.ID+" was refused: "+strings.Join(faults, "; "))
	}
	d.Log.WarnContext(ctx, "request refused", "backfill_id", req.ID, "pipeline", req.Pipeline, "faults", faults)
	d.journal.add(event.Journal(Name, now, &pb.BackfillEvent{
		BackfillId: req.ID, Pipeline: req.Pipeline, Kind: "refused", RequestedBy: req.RequestedBy, Faults: faults,
	}, now.Format(time.RFC3339Nano)))
	return nil
}

// notice leaves word on a backfill of something that had no effect on it.
func (d *Dispatcher) notice(ctx context.Context, req backfill.Request, text string) error {
	_, err := d.Store.UpdateBackfill(ctx, req.ID, 0, func(b *backfill.Backfill) error {
		if n := len(b.Notices); n == 0 || b.Notices[n-1] != text {
			b.Notices = append(b.Notices[max(0, n-19):], text)
		}
		return nil
	})
	if err == nil {
		d.journal.add(event.Journal(Name, d.Now(), &pb.BackfillEvent{
			BackfillId: req.ID, Pipeline: req.Pipeline, Kind: "notice", RequestedBy: req.RequestedBy, Message: text,
		}, text))
	}
	return err
}
