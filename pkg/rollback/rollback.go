// Package rollback deletes what phases wrote for some dates, after a snapshot of each table, and puts it back. Every
// step is on record before the next begins, and may be repeated: running a rollback again finishes it.
package rollback

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Keep is how long snapshots are kept.
const Keep = 7 * 24 * time.Hour

// Plan is what a control asks for, with what the tables hold now: a new rollback, the one that was interrupted, or the
// one that is to be undone. at and key name a new one, the same each time that the control is delivered. Invalid says
// what is wrong, all of it.
func Plan(ctx context.Context, w warehouse.Warehouse, b *backfill.Backfill, p *backfill.Pipeline, m *pb.BackfillControlled, at time.Time, key string) (*backfill.Rollback, error) {
	if m.GetUndo() {
		return undo(b, m)
	}
	r, err := fresh(b, p, m)
	if err != nil {
		return nil, err
	}
	for i := range b.Rollbacks {
		old := &b.Rollbacks[i]
		switch {
		case !old.Open():
		case slices.Equal(old.Phases, r.Phases) && slices.Equal(old.Dates, r.Dates) && !old.Undo:
			return old, nil
		default:
			return nil, fault.List{fmt.Sprintf("the rollback %s of %s is not finished: run it again first, with its phases and dates", old.ID, strings.Join(old.Phases, ", "))}.Err()
		}
	}
	r.ID, r.At, r.By, r.Reason = backfill.RollbackID(at)+"_"+event.ID(b.ID, key)[:6], at, m.GetRequestedBy(), m.GetReason()
	if m.GetRerun() {
		r.Rerun = rerunID(b)
	}
	var faults fault.List
	for i := range r.Tables {
		t := &r.Tables[i]
		dataset, name := split(t.Table)
		t.Snapshot = dataset + ".sluice_" + r.ID + "_" + name
		s := t.Slice
		s.Dates = r.Dates
		if t.Rows, t.Bytes, err = w.Size(ctx, s); fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) {
			faults.Addf("%v: mend outputs in the pipeline file", err)
		} else if err != nil {
			return nil, err
		}
	}
	return r, faults.Err()
}

// split is [project.]dataset.table as dataset and table.
func split(table string) (dataset, name string) {
	i := strings.LastIndex(table, ".")
	return table[:i], table[i+1:]
}

// fresh is what a control asks for, without numbers.
func fresh(b *backfill.Backfill, p *backfill.Pipeline, m *pb.BackfillControlled) (*backfill.Rollback, error) {
	var faults fault.List
	r := &backfill.Rollback{}
	for i := range p.Phases {
		if slices.Contains(m.GetPhases(), p.Phases[i].ID) {
			r.Phases = append(r.Phases, p.Phases[i].ID)
		}
	}
	for _, id := range m.GetPhases() {
		if _, ok := p.Phase(id); !ok {
			faults.Addf("unknown phase %q of pipeline %s", id, p.Name)
		}
	}
	for _, d := range m.GetDates() {
		date, err := backfill.ParseDate(d)
		if _, ours := b.Dates.Index(date); err != nil || !ours {
			faults.Addf("%s is no date of backfill %s", d, b.ID)
			continue
		}
		r.Dates = append(r.Dates, date)
	}
	if len(m.GetDates()) == 0 {
		for _, part := range b.Dates.All() {
			r.Dates = append(r.Dates, part.Date)
		}
	}
	slices.Sort(r.Dates)
	r.Dates = slices.Compact(r.Dates)
	r.Tables = p.Outputs(r.Phases)
	if len(faults) == 0 && !slices.ContainsFunc(r.Tables, func(t backfill.RollbackTable) bool { return t.Phase != "" }) {
		faults.Addf("%s have no outputs in the pipeline file, so nothing could be deleted", strings.Join(r.Phases, ", "))
	}
	return r, faults.Err()
}

// rerunID names the backfill that does a rollback's cells again.
func rerunID(b *backfill.Backfill) string {
	suffix := fmt.Sprintf("-rerun-%d", len(b.Rollbacks)+1)
	return b.ID[:min(len(b.ID), 63-len(suffix))] + suffix
}

// undo finds the newest rollback that can be undone.
func undo(b *backfill.Backfill, m *pb.BackfillControlled) (*backfill.Rollback, error) {
	for i := range slices.Backward(b.Rollbacks) {
		r := &b.Rollbacks[i]
		if !r.Undone.IsZero() || (len(m.GetPhases()) > 0 && !slices.Equal(slices.Sorted(slices.Values(m.GetPhases())), slices.Sorted(slices.Values(r.Phases)))) {
			continue
		}
		if !r.Undo && r.Finished.IsZero() {
			return nil, fault.List{fmt.Sprintf("the rollback %s is not finished: run it again first, then undo it", r.ID)}.Err()
		}
		out := *r
		out.Undo = true
		return &out, nil
	}
	return nil, fault.List{"backfill " + b.ID + " has no rollback that could be undone"}.Err()
}

// Notes says what a rollback leaves although it was built on what is deleted.
func Notes(p *backfill.Pipeline, r *backfill.Rollback) []string {
	var out []string
	if left := p.Built(r.Phases); len(left) > 0 {
		out = append(out, strings.Join(left, ", ")+" read what is deleted and stay as they are: name them too when their rows are wrong as well")
	}
	if p.History == nil {
		out = append(out, "the pipeline has no history table, so nothing there has to be taken back")
	}
	return out
}

// Steps is what a rollback is done with.
type Steps struct {
	Warehouse warehouse.Partitions
	Now       func() time.Time
	// Save puts a change of the rollback on record, and Done what has happened to a table, before the next step.
	Save func(*backfill.Rollback) error
	Done func(*backfill.RollbackTable) error
}

// Run does what is left of a rollback, or of its undoing.
func (s Steps) Run(ctx context.Context, r *backfill.Rollback) error {
	if r.Undo {
		return s.undo(ctx, r)
	}
	for i := range r.Tables {
		t := &r.Tables[i]
		if t.State == backfill.RollbackPlanned {
			if err := s.Warehouse.Snapshot(ctx, t.Table, t.Snapshot, r.At.Add(Keep)); err != nil {
				return fmt.Errorf("taking a snapshot of %s: %w", t.Table, err)
			}
			if err := s.step(r, i, backfill.RollbackSnapshot); err != nil {
				return err
			}
		}
		if t.State == backfill.RollbackSnapshot {
			n, err := s.Warehouse.Delete(ctx, slice(r, i))
			if err != nil {
				return fmt.Errorf("deleting from %s: %w", t.Table, err)
			}
			if t.Deleted = n; n == 0 {
				t.Deleted = t.Rows // they were deleted before an interruption, by the same filter
			}
			if err := s.step(r, i, backfill.RollbackDeleted); err != nil {
				return err
			}
		}
	}
	r.Finished = s.Now()
	return s.Save(r)
}

// undo puts the tables back, the last one first.
func (s Steps) undo(ctx context.Context, r *backfill.Rollback) error {
	for i := range slices.Backward(r.Tables) {
		if r.Tables[i].State == backfill.RollbackRestored {
			continue
		}
		if _, err := s.Warehouse.Restore(ctx, slice(r, i), r.Tables[i].Snapshot); err != nil {
			return fmt.Errorf("putting back %s: %w", r.Tables[i].Table, err)
		}
		if err := s.step(r, i, backfill.RollbackRestored); err != nil {
			return err
		}
	}
	r.Undone = s.Now()
	return s.Save(r)
}

func (s Steps) step(r *backfill.Rollback, i int, state backfill.RollbackState) error {
	r.Tables[i].State = state
	if err := s.Save(r); err != nil {
		return err
	}
	return s.Done(&r.Tables[i])
}

func slice(r *backfill.Rollback, i int) backfill.Slice {
	s := r.Tables[i].Slice
	s.Dates = r.Dates
	return s
}

// Rerun is the request for the cells of a rollback that wants one. Phases that the platform starts by
// itself are run again by running what starts them. known says on which dates what was not rolled back is complete, so
// that nobody asks for it in the history, where not every phase leaves a trace.
func Rerun(b *backfill.Backfill, p *backfill.Pipeline, r *backfill.Rollback, known []backfill.Date) *pb.BackfillRequested {
	m := &pb.BackfillRequested{
		BackfillId: r.Rerun, Pipeline: b.Request.Pipeline, Order: string(b.Request.Order), Force: true,
		Dates: &pb.DateSelection{List: warehouse.Days(r.Dates)}, Reason: "rerun after rollback " + r.ID + " of " + b.ID, RequestedBy: r.By,
	}
	again := map[string]bool{}
	for _, id := range r.Phases {
		for ph, ok := p.Phase(id); ok; {
			again[ph.ID] = true
			if ph.Trigger.HTTP != nil || len(ph.After) == 0 {
				break
			}
			ph, ok = p.Phase(ph.After[0])
		}
	}
	for i := range p.Phases {
		if again[p.Phases[i].ID] {
			m.Phases = append(m.Phases, p.Phases[i].ID)
		}
	}
	for _, gap := range b.Request.AcceptGaps {
		m.AcceptGaps = append(m.AcceptGaps, gap.From.String()+".."+gap.To.String())
	}
	m.AcceptGaps = append(m.AcceptGaps, warehouse.Days(known)...)
	return m
}
