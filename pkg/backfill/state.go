package backfill

import (
	"fmt"
	"slices"
	"time"
)

// State is where a whole backfill stands.
type State string

// The states of a backfill; StateRefused, StateCancelled, StateCompleted and StateIncomplete are ends.
const (
	StatePlanning   State = "planning"
	StateRefused    State = "refused"
	StateActive     State = "active"
	StatePausing    State = "pausing"
	StatePaused     State = "paused"
	StateCancelling State = "cancelling"
	StateCancelled  State = "cancelled"
	StateCompleted  State = "completed"
	StateIncomplete State = "incomplete"
)

// Ended says whether nothing of the backfill runs or will run unless a person asks for it.
func (s State) Ended() bool {
	switch s {
	case StateRefused, StateCancelled, StateCompleted, StateIncomplete:
		return true
	default:
		return false
	}
}

// Refuses says why a control makes no sense in a state; empty when it does. What is so already is no
// reason: pausing or cancelling twice does no harm.
func (s State) Refuses(action string) string {
	running := s == StateActive || s == StatePausing || s == StatePaused
	ok := false
	switch action {
	case "pause", "resume", "limit":
		ok = running
	case "cancel":
		ok = running || s == StateCancelling || s == StateCancelled
	case "retry", "waive":
		ok = running || s == StateIncomplete || s == StateCompleted
	case "rollback":
		ok = s == StateIncomplete || s == StateCompleted || s == StateCancelled
	case "release", "forget":
		ok = s.Ended()
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("%s has no effect on a backfill that is %s", action, s)
}

// Order says how far phases and dates may overlap.
type Order string

// The orders. OrderOverlap starts a phase of a date as soon as its own needs are met.
const (
	OrderOverlap      Order = "overlap"
	OrderPhaseByPhase Order = "phase_by_phase"
	OrderDateByDate   Order = "date_by_date"
)

// Request is a checked backfill request.
type Request struct {
	ID            string            `json:"id"`
	Pipeline      string            `json:"pipeline"`
	Seasons       []string          `json:"seasons,omitempty"`
	Start         *Date             `json:"start,omitempty"`
	End           *Date             `json:"end,omitempty"`
	List          []Date            `json:"list,omitempty"`
	Phases        []string          `json:"phases,omitempty"`
	Order         Order             `json:"order"`
	ValidateFirst int               `json:"validate_first,omitempty"`
	Force         bool              `json:"force,omitempty"`
	BudgetUSD     float64           `json:"budget_usd,omitempty"`
	Limits        map[string]Limits `json:"limits,omitempty"`
	PauseOnFail   bool              `json:"pause_on_exhausted,omitempty"`
	AcceptGaps    []Span            `json:"accept_gaps,omitempty"`
	Reason        string            `json:"reason,omitempty"`
	RequestedBy   string            `json:"requested_by,omitempty"`
	DryRun        bool              `json:"dry_run,omitempty"`
}

// Limits lower a phase's limits for one backfill; 0 leaves the pipeline's.
type Limits struct {
	MaxDates      int `json:"max_dates,omitempty"`
	MaxProcessors int `json:"max_processors,omitempty"`
}

// Span is an inclusive range of dates.
type Span struct{ From, To Date }

// Contains says whether d lies in the span.
func (s Span) Contains(d Date) bool { return s.From <= d && d <= s.To }

// Backfill is one backfill's own document.
type Backfill struct {
	ID         string    `json:"id"`
	Request    Request   `json:"request"`
	Version    string    `json:"version"` // of the pipeline, by its hash
	State      State     `json:"state"`
	Faults     []string  `json:"faults,omitempty"`
	Notices    []string  `json:"notices,omitempty"` // controls without effect, and why
	Calendar   Calendar  `json:"calendar"`          // the backfill's dates and those its windows reach
	Dates      Calendar  `json:"dates"`             // the backfill's own dates
	CreatedAt  time.Time `json:"created_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Lease      Lease     `json:"lease"`
	Progress   Progress  `json:"progress"`
	// Limits are the request's, until a control changes them.
	Limits map[string]Limits `json:"limits,omitempty"`
	Budget Budget            `json:"budget,omitzero"`
	// Planned is what the plan said when the backfill began.
	Planned Planned `json:"planned,omitzero"`
	// Rollbacks are those that were asked for, the newest last.
	Rollbacks []Rollback `json:"rollbacks,omitempty"`
	// ExpiresAt is when the documents of an ended backfill may be removed; zero for never.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// Budget is how much a backfill may spend, and whether it was said that it is nearly used up.
type Budget struct {
	USD    float64 `json:"usd,omitempty"` // 0 for no bound
	Warned bool    `json:"warned,omitempty"`
}

// OverBudget says why a backfill may not go on; empty when it may.
func (b *Backfill) OverBudget() string {
	if b.Budget.USD <= 0 || b.Progress.SpendUSD < b.Budget.USD {
		return ""
	}
	return fmt.Sprintf("$%.2f of budget_usd %.2f are spent: raise it first with sluice limit %s --budget-usd", b.Progress.SpendUSD, b.Budget.USD, b.ID)
}

// Planned is what a forecast said.
type Planned struct {
	P50  time.Duration `json:"p50,omitempty"`
	P90  time.Duration `json:"p90,omitempty"`
	USD  float64       `json:"usd,omitempty"`
	Runs int           `json:"runs,omitempty"`
	// EachUSD is what a run of a phase is expected to cost.
	EachUSD map[string]float64 `json:"each_usd,omitempty"`
}

// Key is the id and the time of birth: an id may be used again once its backfill was refused or forgotten.
func (b *Backfill) Key() string { return fmt.Sprintf("%s@%d", b.ID, b.CreatedAt.UnixNano()) }

// Lease says which dispatcher drives the backfill. Epoch grows with every change of holder; a write that
// carries an older epoch is refused.
type Lease struct {
	Holder  string    `json:"holder,omitempty"`
	Epoch   int64     `json:"epoch,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// Progress is what status shows, kept by the dispatcher so that nobody has to read all dates.
type Progress struct {
	Phases        []PhaseProgress `json:"phases,omitempty"`
	DatesTotal    int             `json:"dates_total"`
	DatesComplete int             `json:"dates_complete"`
	DatesFailed   int             `json:"dates_failed"`
	DatesBlocked  int             `json:"dates_blocked"`
	Attempts      int             `json:"attempts"`
	Retries       int             `json:"retries"`
	Throttles     int             `json:"throttles"`
	Rate          float64         `json:"rate"`
	ETA           time.Time       `json:"eta,omitzero"`
	// BusySeconds is how long all attempts took together; BytesReported is what processors said that they were billed.
	BusySeconds   float64 `json:"busy_seconds,omitempty"`
	BytesReported int64   `json:"bytes_reported,omitempty"`
	Spend         []Spent `json:"spend,omitempty"`
	SpendUSD      float64 `json:"spend_usd,omitempty"`
	ForecastUSD   float64 `json:"forecast_usd,omitempty"` // of the whole run
}

// Spent is a part of what a backfill has cost so far.
type Spent struct {
	What   string  `json:"what"`
	Amount float64 `json:"amount"`
	Unit   string  `json:"unit"`
	USD    float64 `json:"usd"`
}

// PhaseProgress counts a phase over all dates.
type PhaseProgress struct {
	ID            string `json:"id"`
	DatesComplete int    `json:"dates_complete"`
	Tally
}

// Tally counts runs, each in exactly one state.
type Tally struct {
	Total     int `json:"total"`
	Succeeded int `json:"succeeded"`
	Skipped   int `json:"skipped"`
	Waived    int `json:"waived"`
	InFlight  int `json:"in_flight"`
	Retrying  int `json:"retrying"`
	Exhausted int `json:"exhausted"`
	Pending   int `json:"pending"`
}

// Count adds n runs in a state.
func (t *Tally) Count(s RunState, n int) {
	t.Total += n
	switch s {
	case RunSucceeded:
		t.Succeeded += n
	case RunSkipped:
		t.Skipped += n
	case RunWaived:
		t.Waived += n
	case RunInFlight:
		t.InFlight += n
	case RunRetrying:
		t.Retrying += n
	case RunExhausted:
		t.Exhausted += n
	case RunPending:
		t.Pending += n
	}
}

// Add adds sign times another tally.
func (t *Tally) Add(o Tally, sign int) {
	t.Total += sign * o.Total
	t.Succeeded += sign * o.Succeeded
	t.Skipped += sign * o.Skipped
	t.Waived += sign * o.Waived
	t.InFlight += sign * o.InFlight
	t.Retrying += sign * o.Retrying
	t.Exhausted += sign * o.Exhausted
	t.Pending += sign * o.Pending
}

// Done counts what a gate counts.
func (t Tally) Done() int { return t.Succeeded + t.Skipped + t.Waived }

// Complete is N/N.
func (t Tally) Complete() bool { return t.Done() == t.Total }

// Scope is a backfill with its pipeline: what every decision needs besides the record. It is immutable.
type Scope struct {
	ID string
	// Key tells backfills apart that had the same id one after the other, for what is remembered of them.
	Key      string
	Pipeline *Pipeline
	Order    Order
	Validate int
	Calendar Calendar
	Dates    Calendar
	selected map[string]bool
	seasons  map[string][]*Phase // the phases that run, of the seasons that the dates have
}

// NewScope prepares a backfill for decisions.
func NewScope(b *Backfill, p *Pipeline) *Scope {
	s := &Scope{
		ID: b.ID, Key: b.Key(), Pipeline: p, Order: b.Request.Order, Validate: b.Request.ValidateFirst,
		Calendar: b.Calendar, Dates: b.Dates, selected: make(map[string]bool, len(p.Phases)),
	}
	for i := range p.Phases {
		id := p.Phases[i].ID
		s.selected[id] = len(b.Request.Phases) == 0 || slices.Contains(b.Request.Phases, id)
	}
	s.seasons = map[string][]*Phase{}
	for i, part := range b.Dates.parts {
		if i == 0 || part.Season != b.Dates.parts[i-1].Season {
			s.seasons[part.Season] = s.phases(part.Season)
		}
	}
	return s
}

// Selected says whether the backfill runs the phase.
func (s *Scope) Selected(phase string) bool { return s.selected[phase] }

// Phases lists the phases that the backfill runs in a season; the caller must not change the list.
func (s *Scope) Phases(season string) []*Phase {
	if list, ok := s.seasons[season]; ok {
		return list
	}
	return s.phases(season)
}

func (s *Scope) phases(season string) []*Phase {
	out := make([]*Phase, 0, len(s.Pipeline.Phases))
	for i := range s.Pipeline.Phases {
		if ph := &s.Pipeline.Phases[i]; s.selected[ph.ID] && ph.AppliesTo(season) {
			out = append(out, ph)
		}
	}
	return out
}

// Tally counts the processors of a phase on the record's date. Only processors of the pipeline count.
func (s *Scope) Tally(r *Record, ph *Phase) Tally {
	var t Tally
	for i := range ph.Processors {
		t.Count(r.Run(s.ID, ph, &ph.Processors[i]).State, 1)
	}
	return t
}

// Complete says whether a phase of the date is out of the way: N/N, or not part of this backfill or season
// while everything before it is complete.
func (s *Scope) Complete(r *Record, phase string) bool {
	ph, ok := s.Pipeline.Phase(phase)
	if !ok {
		return false
	}
	if !s.selected[phase] {
		return true // planning made sure that history has it
	}
	if !ph.AppliesTo(r.Season) {
		return !slices.ContainsFunc(ph.After, func(a string) bool { return !s.Complete(r, a) })
	}
	for i := range ph.Processors {
		if !r.Run(s.ID, ph, &ph.Processors[i]).State.Done() {
			return false
		}
	}
	return true
}

// DateComplete says whether every phase of the date is complete.
func (s *Scope) DateComplete(r *Record) bool {
	for i := range s.Pipeline.Phases {
		if !s.Complete(r, s.Pipeline.Phases[i].ID) {
			return false
		}
	}
	return true
}
