package api

import (
	"context"

	"connectrpc.com/connect"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/report"
	"sluice.dev/pkg/rollback"
	"sluice.dev/pkg/verify"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Verify implements the service.
func (s *Server) Verify(ctx context.Context, r *connect.Request[pb.VerifyRequest]) (*connect.Response[pb.VerifyResponse], error) {
	b, sc, err := s.scope(ctx, r.Msg.GetBackfillId())
	if err != nil {
		return nil, wire(err)
	}
	if sc == nil {
		return nil, wire(fault.New(fault.Refused, "backfill %s is %s: there is nothing of it to verify", b.ID, b.State))
	}
	if err := checkNames(sc.Pipeline, r.Msg.GetChecks()); err != nil {
		return nil, wire(err)
	}
	complete := map[backfill.Cell]bool{}
	err = s.scan(ctx, sc, func(rec backfill.Record) error {
		for _, ph := range sc.Phases(rec.Season) {
			complete[backfill.Cell{Date: rec.Date, Phase: ph.ID}] = sc.Complete(&rec, ph.ID)
		}
		return nil
	})
	if err != nil {
		return nil, wire(err)
	}
	now := s.now()
	settings := verify.Settings{
		Source: s.before.Planner.Warehouse, Pipeline: sc.Pipeline, MissingOK: s.before.Embedded,
		Calendar: func(ctx context.Context) (backfill.Calendar, error) {
			return s.before.Planner.Calendar(ctx, sc.Pipeline, now)
		},
	}
	outcomes, err := settings.Complete(warehouse.ForBackfill(ctx, b.ID), sc, func(c backfill.Cell) bool { return complete[c] }, r.Msg.GetChecks())
	if err != nil {
		return nil, wire(err)
	}
	if lines := verify.Journal(Source, sc, now, outcomes); len(lines) > 0 {
		if err := s.pub.Publish(ctx, event.TopicEvents, lines...); err != nil {
			return nil, wire(err)
		}
	}
	out := &pb.VerifyResponse{Passed: true}
	for _, o := range outcomes {
		out.Passed = out.GetPassed() && o.Result != verify.Failed
		out.Results = append(out.Results, o.Wire())
	}
	return connect.NewResponse(out), nil
}

func checkNames(p *backfill.Pipeline, names []string) error {
	var faults fault.List
	known := map[string]bool{}
	for i := range p.Checks {
		known[p.Checks[i].Name] = true
	}
	for _, name := range names {
		if !known[name] {
			faults.Addf("pipeline %s has no check %q", p.Name, name)
		}
	}
	return faults.Err()
}

func (s *Server) planRollback(ctx context.Context, b *backfill.Backfill, m *pb.BackfillControlled) (*backfill.Rollback, error) {
	p, err := s.store.Pipeline(ctx, b.Request.Pipeline, b.Version)
	if err != nil {
		return nil, err
	}
	return rollback.Plan(warehouse.ForBackfill(ctx, b.ID), s.before.Planner.Warehouse, b, p, m, s.now(), "plan")
}

// PlanRollback implements the service.
func (s *Server) PlanRollback(ctx context.Context, r *connect.Request[pb.BackfillControlled]) (*connect.Response[pb.PlanRollbackResponse], error) {
	b, err := s.store.Backfill(ctx, r.Msg.GetBackfillId())
	if err != nil {
		return nil, wire(err)
	}
	if why := b.State.Refuses("rollback"); why != "" {
		return nil, wire(fault.New(fault.Refused, "%s", why))
	}
	plan, err := s.planRollback(ctx, b, r.Msg)
	if err != nil {
		return nil, wire(err)
	}
	p, err := s.store.Pipeline(ctx, b.Request.Pipeline, b.Version)
	if err != nil {
		return nil, wire(err)
	}
	out := &pb.RollbackPlan{
		BackfillId: b.ID, Id: plan.ID, Undo: plan.Undo, Phases: plan.Phases, Dates: warehouse.Days(plan.Dates), Tables: presentTables(plan), Notes: rollback.Notes(p, plan),
	}
	return connect.NewResponse(&pb.PlanRollbackResponse{Plan: out}), nil
}

// Report implements the service.
func (s *Server) Report(ctx context.Context, r *connect.Request[pb.ReportRequest]) (*connect.Response[pb.ReportResponse], error) {
	id := r.Msg.GetBackfillId()
	builder := report.New(id)
	if err := s.before.Planner.Warehouse.Events(ctx, id, builder.Add); err != nil {
		return nil, wire(err)
	}
	out := builder.Report()
	b, err := s.store.Backfill(ctx, id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, wire(err)
	}
	if out == nil {
		if err == nil {
			err = fault.New(fault.NotFound, "nothing of backfill %s is in the journal yet", id)
		}
		return nil, wire(err)
	}
	report.Now(out, b)
	return connect.NewResponse(&pb.ReportResponse{Report: out}), nil
}
