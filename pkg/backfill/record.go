package backfill

import (
	"maps"
	"time"
)

// Kind is what a fact says. The words are the ones in the documents.
type Kind string

// The kinds of facts. Succeeded, Partial, Failed, Rejected and ReportedSkip are outcomes of an attempt:
// Failed may be tried again, Rejected may not.
const (
	Dispatched   Kind = "dispatched"
	Accepted     Kind = "accepted"
	Succeeded    Kind = "succeeded"
	Partial      Kind = "partial"
	Failed       Kind = "failed"
	Rejected     Kind = "rejected"
	ReportedSkip Kind = "reported_skip"
	Skipped      Kind = "skipped"      // planned: history says it is done
	Waived       Kind = "waived"       // a person said to go on without it
	Retried      Kind = "retried"      // a person granted new attempts after Attempt
	Triggered    Kind = "triggered"    // the gate is open; Processor "" means every processor without conditions of its own
	Complete     Kind = "complete"     // the phase stands at N/N
	CheckPassed  Kind = "check_passed" // the data of the phase are as a blocking check wants them
	CheckFailed  Kind = "check_failed"
)

// Key names a fact. Everything that decides a state is in the key, so it does not matter which of two
// facts with the same key a store keeps.
type Key struct {
	Phase     string
	Processor string
	Attempt   int
	Kind      Kind
}

// Value is what a fact adds to its key.
type Value struct {
	At            time.Time `json:"at"`
	Message       string    `json:"message,omitempty"`
	By            string    `json:"by,omitempty"`
	Records       int64     `json:"records,omitempty"`
	BytesBilled   int64     `json:"bytes_billed,omitempty"`
	StartedAt     time.Time `json:"started_at,omitzero"`
	FinishedAt    time.Time `json:"finished_at,omitzero"`
	CorrelationID string    `json:"correlation_id,omitempty"`
	// Within is how long a dispatched attempt may take, when that is not the processor's own timeout.
	Within time.Duration `json:"within,omitempty"`
	// EventID is the message that told of an outcome without saying of which attempt: told again, it is still
	// about the same one.
	EventID string `json:"event_id,omitempty"`
}

// Fact is something that happened and stays true.
type Fact struct {
	Key
	Value
}

// Record is all that is known of one date of a backfill. Facts are only ever added; a record is immutable,
// adding makes another one.
type Record struct {
	Date   Date
	Season string
	// WakeAt is when the date must be looked at again; zero for never.
	WakeAt time.Time
	runs   map[Ref][]Fact // few facts each; the slices are never changed, only replaced
	n      int
}

// NewRecord is a date about which nothing is known yet but facts.
func NewRecord(date Date, season string, facts ...Fact) Record {
	return Record{Date: date, Season: season}.Add(facts...)
}

// find is the position of a fact among those of its processor, -1 when it is not known.
func find(facts []Fact, attempt int, kind Kind) int {
	for i := range facts {
		if facts[i].Attempt == attempt && facts[i].Kind == kind {
			return i
		}
	}
	return -1
}

// Has says whether the fact is known.
func (r *Record) Has(k Key) bool {
	return find(r.runs[Ref{k.Phase, k.Processor}], k.Attempt, k.Kind) >= 0
}

// Get is what is known under a key.
func (r *Record) Get(k Key) (Value, bool) {
	facts := r.runs[Ref{k.Phase, k.Processor}]
	if i := find(facts, k.Attempt, k.Kind); i >= 0 {
		return facts[i].Value, true
	}
	return Value{}, false
}

// Len is the number of facts. Of two versions of one date's record the one with more facts is the newer.
func (r *Record) Len() int { return r.n }

// Told finds the attempt whose outcome a message has told of.
func (r *Record) Told(phase, processor, eventID string) (int, bool) {
	for _, f := range r.runs[Ref{phase, processor}] {
		if f.EventID == eventID && eventID != "" {
			return f.Attempt, true
		}
	}
	return 0, false
}

// Facts lists all facts in no particular order.
func (r *Record) Facts() []Fact {
	out := make([]Fact, 0, r.n)
	for _, facts := range r.runs {
		out = append(out, facts...)
	}
	return out
}

// New lists those of the facts that the record does not hold yet.
func (r *Record) New(facts []Fact) []Fact {
	var out []Fact
	for _, f := range facts {
		if !r.Has(f.Key) {
			out = append(out, f)
		}
	}
	return out
}

// Add is the record with the facts merged in. It is commutative, associative and idempotent.
func (r Record) Add(facts ...Fact) Record {
	if len(facts) > 0 {
		r.runs = maps.Clone(r.runs)
		r.Grow(facts...)
	}
	return r
}

// Grow is Add in place, for a record that nobody else has a copy of.
func (r *Record) Grow(facts ...Fact) {
	if r.runs == nil {
		r.runs = make(map[Ref][]Fact, len(facts))
	}
	for _, f := range facts {
		ref := Ref{f.Phase, f.Processor}
		old := r.runs[ref]
		i := find(old, f.Attempt, f.Kind)
		if i >= 0 && older(old[i].Value, f.Value) == old[i].Value {
			continue
		}
		fresh := make([]Fact, len(old), len(old)+1)
		copy(fresh, old)
		if i >= 0 {
			fresh[i] = f
		} else {
			fresh = append(fresh, f)
			r.n++
		}
		r.runs[ref] = fresh
	}
}

// older chooses between two values of one fact, the same way round whichever is asked first.
func older(a, b Value) Value {
	switch {
	case a.At.Before(b.At):
		return a
	case b.At.Before(a.At):
		return b
	case a.Message+"\x00"+a.CorrelationID+"\x00"+a.By <= b.Message+"\x00"+b.CorrelationID+"\x00"+b.By:
		return a
	default:
		return b
	}
}

// Sooner is the earlier of two wake-up times, where zero means never.
func Sooner(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
