package backfill

import (
	"slices"
	"time"
)

// Rollback is the removal of what phases wrote for some dates. Its document is written before each step, and each
// step may be repeated, so that one that was interrupted is finished by running it again.
type Rollback struct {
	ID     string    `json:"id"`
	Phases []string  `json:"phases"`
	Dates  []Date    `json:"dates"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
	// Rerun is the id of the backfill that is asked for afterwards; empty for none.
	Rerun    string          `json:"rerun,omitempty"`
	Tables   []RollbackTable `json:"tables"`
	Finished time.Time       `json:"finished,omitzero"`
	// Undo says that the snapshots are to be put back, Undone that they are.
	Undo   bool      `json:"undo,omitempty"`
	Undone time.Time `json:"undone,omitzero"`
}

// Open says whether steps are left to do.
func (r *Rollback) Open() bool { return r.Finished.IsZero() || (r.Undo && r.Undone.IsZero()) }

// RollbackTable is what a rollback does with one table.
type RollbackTable struct {
	Slice
	Phase    string        `json:"phase"`
	Rows     int64         `json:"rows"`
	Bytes    int64         `json:"bytes"`
	Snapshot string        `json:"snapshot"`
	State    RollbackState `json:"state"`
	Deleted  int64         `json:"deleted,omitempty"`
}

// RollbackState is how far a rollback has come with a table.
type RollbackState string

// The states, in the order in which they follow each other.
const (
	RollbackPlanned  RollbackState = "planned"
	RollbackSnapshot RollbackState = "snapshotted"
	RollbackDeleted  RollbackState = "deleted"
	RollbackRestored RollbackState = "restored"
)

// Slice is a part of a table: the rows of some dates, and of some phases where a column tells phases apart.
type Slice struct {
	Table       string   `json:"table"`
	Column      string   `json:"column"`
	Dates       []Date   `json:"-"`
	PhaseColumn string   `json:"phase_column,omitempty"`
	Phases      []string `json:"phases,omitempty"`
}

// RollbackID names a rollback after the moment in which it was asked for.
func RollbackID(at time.Time) string { return at.UTC().Format("20060102t150405") }

// Outputs lists what a rollback of phases deletes: the tables of later phases before those of earlier ones, and at
// the end what the history says of the phases, so that nothing takes them for done.
func (p *Pipeline) Outputs(phases []string) []RollbackTable {
	var out []RollbackTable
	for _, ph := range slices.Backward(p.Phases) {
		if !slices.Contains(phases, ph.ID) {
			continue
		}
		for _, t := range ph.Outputs {
			out = append(out, RollbackTable{Slice: Slice{Table: t, Column: p.Partition.Column}, Phase: ph.ID, State: RollbackPlanned})
		}
	}
	if h := p.History; h != nil {
		out = append(out, RollbackTable{Slice: Slice{Table: h.Table, Column: h.Date, PhaseColumn: h.Phase, Phases: phases}, State: RollbackPlanned})
	}
	return out
}

// Built lists the phases that read what other phases write: those that come after them or look back on them.
func (p *Pipeline) Built(on []string) []string {
	reads := map[string]bool{}
	for _, id := range on {
		reads[id] = true
	}
	var out []string
	for again := true; again; {
		again = false
		for i := range p.Phases {
			ph := &p.Phases[i]
			if reads[ph.ID] {
				continue
			}
			uses := slices.ContainsFunc(ph.After, func(a string) bool { return reads[a] })
			for j := range ph.Processors {
				uses = uses || slices.ContainsFunc(ph.Processors[j].Needs, func(r Ref) bool { return reads[r.Phase] }) ||
					slices.ContainsFunc(ph.Processors[j].Windows, func(w Window) bool { return reads[w.Phase] })
			}
			if uses {
				reads[ph.ID], again = true, true
				out = append(out, ph.ID)
			}
		}
	}
	return out
}
