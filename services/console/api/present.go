package api

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
)

func n32(n int) int32 { return int32(n) }

// stamp is a time as a message; zero is absent.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// present is a backfill as people see it.
func present(b *backfill.Backfill) *pb.Backfill {
	p := b.Progress
	out := &pb.Backfill{
		Id: b.ID, Pipeline: b.Request.Pipeline, State: string(b.State), Faults: b.Faults, Notices: b.Notices,
		CreatedAt: stamp(b.CreatedAt), FinishedAt: stamp(b.FinishedAt),
		Dates: &pb.DateCounts{
			Total: n32(max(p.DatesTotal, b.Dates.Len())), Complete: n32(p.DatesComplete), Failed: n32(p.DatesFailed), Blocked: n32(p.DatesBlocked),
		},
		Attempts: n32(p.Attempts), Retries: n32(p.Retries), Throttles: n32(p.Throttles), RatePerSecond: p.Rate, Eta: stamp(p.ETA),
		RequestedBy: b.Request.RequestedBy, Reason: b.Request.Reason, DryRun: b.Request.DryRun,
		SpendUsd: p.SpendUSD, ForecastUsd: p.ForecastUSD, BudgetUsd: b.Budget.USD,
	}
	for _, s := range p.Spend {
		out.Spend = append(out.Spend, &pb.SpendPart{Name: s.What, Amount: s.Amount, Unit: s.Unit, Usd: s.USD})
	}
	if n := len(b.Rollbacks); n > 0 {
		out.Rollback = presentTables(&b.Rollbacks[n-1])
	}
	for name, l := range b.Limits {
		if out.Limits == nil {
			out.Limits = map[string]*pb.PhaseLimits{}
		}
		out.Limits[name] = &pb.PhaseLimits{MaxDates: n32(l.MaxDates), MaxProcessors: n32(l.MaxProcessors)}
	}
	for _, ph := range p.Phases {
		out.Phases = append(out.Phases, &pb.PhaseProgress{
			Id: ph.ID, DatesComplete: n32(ph.DatesComplete), Runs: &pb.Tally{
				Total: n32(ph.Total), Succeeded: n32(ph.Succeeded), Skipped: n32(ph.Skipped), Waived: n32(ph.Waived),
				InFlight: n32(ph.InFlight), Retrying: n32(ph.Retrying), Exhausted: n32(ph.Exhausted), Pending: n32(ph.Pending),
			},
		})
	}
	return out
}

// dateStatus is a date as people see it, with phases that the season does not have marked as such.
// Once the backfill has ended, what is neither complete nor failed is blocked.
func dateStatus(sc *backfill.Scope, rec *backfill.Record, ended bool) *pb.DateStatus {
	out := &pb.DateStatus{Date: rec.Date.String(), Season: rec.Season}
	for i := range sc.Pipeline.Phases {
		ph := &sc.Pipeline.Phases[i]
		if !sc.Selected(ph.ID) {
			continue
		}
		if !ph.AppliesTo(rec.Season) {
			out.Phases = append(out.Phases, &pb.DatePhase{Id: ph.ID, State: "none"})
			continue
		}
		st, t := sc.CellState(rec, ph)
		if ended && (st == "waiting" || st == "running") {
			st = "blocked"
		}
		out.Phases = append(out.Phases, &pb.DatePhase{Id: ph.ID, State: st, Done: n32(t.Done()), Total: n32(t.Total)})
	}
	return out
}

// Codec is Connect's JSON as the contract wants it: snake_case, every field present, unknown fields refused.
type Codec struct{}

// Name implements connect.Codec.
func (Codec) Name() string { return "json" }

// Marshal implements connect.Codec.
func (Codec) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	return event.Marshal(m)
}

// Unmarshal implements connect.Codec.
func (Codec) Unmarshal(b []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", v)
	}
	if len(b) == 0 {
		b = []byte("{}")
	}
	return event.Unmarshal(b, m)
}

func presentTables(r *backfill.Rollback) []*pb.RollbackTable {
	out := make([]*pb.RollbackTable, len(r.Tables))
	for i, t := range r.Tables {
		out[i] = &pb.RollbackTable{
			Table: t.Table, Phase: t.Phase, Rows: t.Rows, Bytes: t.Bytes, Snapshot: t.Snapshot, State: string(t.State), Deleted: t.Deleted,
		}
	}
	return out
}
