package api

import (
	"context"
	"slices"

	"connectrpc.com/connect"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/cost"
	"sluice.dev/pkg/planner"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Plan implements the service.
func (s *Server) Plan(ctx context.Context, r *connect.Request[pb.BackfillRequested]) (*connect.Response[pb.PlanResponse], error) {
	return s.forecast(ctx, r.Msg, planner.WhatIf{})
}

// Simulate implements the service.
func (s *Server) Simulate(ctx context.Context, r *connect.Request[pb.SimulateRequest]) (*connect.Response[pb.PlanResponse], error) {
	m := r.Msg
	return s.forecast(ctx, m.GetRequest(), planner.WhatIf{
		Limits: m.GetLimits(), Order: backfill.Order(m.GetOrder()), FailRate: m.FailRate, Throttle: m.ThrottleRate,
		Seeds: int(m.GetSeeds()), Seed: m.GetSeed(),
	})
}

func (s *Server) forecast(ctx context.Context, m *pb.BackfillRequested, w planner.WhatIf) (*connect.Response[pb.PlanResponse], error) {
	req, err := planner.Check(m)
	if err != nil {
		return nil, wire(err)
	}
	if req.ID == "" {
		req.ID = freshID(req.Pipeline, s.now())
	}
	f, err := s.before.Planner.Forecast(ctx, req, w, s.now())
	if err != nil {
		return nil, wire(err)
	}
	return connect.NewResponse(&pb.PlanResponse{Plan: presentForecast(f)}), nil
}

func presentForecast(f *planner.Forecast) *pb.Plan {
	dates := f.Backfill.Dates
	out := &pb.Plan{
		Pipeline: f.Pipeline.Name, Order: string(f.Backfill.Request.Order), FirstDate: dates.At(0).Date.String(),
		LastDate: dates.At(dates.Len() - 1).Date.String(), DatesTotal: int32(dates.Len()), DatesToDo: int32(f.Open),
		RunsToDo: int32(f.ToDo), RunsSkipped: int32(f.Skipped), Notes: f.Notes,
		Makespan: &pb.Makespan{
			P10Seconds: f.P10.Seconds(), P50Seconds: f.P50.Seconds(), P90Seconds: f.P90.Seconds(), Seeds: int32(f.Seeds),
		},
		Retries: int32(f.Typical.Retries), Throttles: int32(f.Typical.Throttles), Exhausted: int32(f.Typical.Exhausted),
		Spend: &pb.Spend{TotalUsd: cost.Total(f.Cost)},
	}
	for _, b := range f.Bounds {
		out.Bounds = append(out.Bounds, &pb.Bound{Name: b.Name, Seconds: b.Time.Seconds()})
	}
	for _, x := range f.Typical.Path {
		out.CriticalPath = append(out.CriticalPath, &pb.Step{
			Date: x.Date.String(), Phase: x.Ref.Phase, Processor: x.Ref.Processor, Wait: x.Wait, StartSeconds: x.Start.Seconds(),
			EndSeconds: x.End.Seconds(), Attempts: int32(x.Attempts),
		})
	}
	for _, u := range f.Typical.Uses() {
		out.Limits = append(out.Limits, &pb.Use{Name: u.Name, Limit: u.Limit, Utilisation: u.Share})
	}
	for _, ph := range f.Typical.Phases {
		if ph.Runs > 0 {
			out.Phases = append(out.Phases, &pb.PlannedPhase{
				Id: ph.ID, Runs: int32(ph.Runs), StartSeconds: ph.Start.Seconds(), EndSeconds: ph.End.Seconds(),
			})
		}
	}
	for _, p := range f.Cost {
		out.Spend.Parts = append(out.Spend.Parts, &pb.SpendPart{Name: p.What, Amount: p.Amount, Unit: p.Unit, Usd: p.USD, Source: p.Source + ", " + p.Read})
	}
	for i := range f.Pipeline.Phases {
		ph := &f.Pipeline.Phases[i]
		if len(f.Backfill.Request.Phases) > 0 && !slices.Contains(f.Backfill.Request.Phases, ph.ID) {
			continue
		}
		for j := range ph.Processors {
			out.Durations = append(out.Durations, duration(f, ph.ID, ph.Processors[j].Name))
		}
	}
	return out
}

func duration(f *planner.Forecast, phase, processor string) *pb.ExpectedDuration {
	d := f.World.Durations[backfill.Ref{Phase: phase, Processor: processor}]
	return &pb.ExpectedDuration{Phase: phase, Processor: processor, P50Seconds: d.Median, P90Seconds: d.P90(), Source: d.Source}
}
