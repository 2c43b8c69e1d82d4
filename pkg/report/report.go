// Package report tells what a backfill came to from its journal alone, so that it can still be told when the documents
// are gone. It also says what the journal's lines carry as data.
package report

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Activation is the data of the line with which a backfill begins.
type Activation struct {
	Request backfill.Request  `json:"request"`
	Planned backfill.Planned  `json:"planned"`
	Dates   backfill.Calendar `json:"dates"`
	Phases  []Phase           `json:"phases"`
}

// Phase is a phase that a backfill runs.
type Phase struct {
	ID         string   `json:"id"`
	Processors int      `json:"processors"`
	Seasons    []string `json:"seasons,omitempty"` // empty: every season
}

// Activate is what is known as a backfill begins.
func Activate(b *backfill.Backfill, p *backfill.Pipeline) Activation {
	scope := backfill.NewScope(b, p)
	out := Activation{Request: b.Request, Planned: b.Planned, Dates: b.Dates}
	for i := range p.Phases {
		if ph := &p.Phases[i]; scope.Selected(ph.ID) {
			out.Phases = append(out.Phases, Phase{ph.ID, len(ph.Processors), ph.Seasons})
		}
	}
	return out
}

// Ending is the data of the line with which a backfill ends.
type Ending struct {
	Progress backfill.Progress `json:"progress"`
	Budget   float64           `json:"budget,omitempty"`
}

// Encode writes data of a line.
func Encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "" // values of our own types
	}
	return string(b)
}

type run struct {
	phase, processor string
	date             string
}

// outcome is what became of a run.
type outcome struct {
	state    backfill.RunState
	failures int
	last     string
	fatal    bool
}

type check struct {
	at       time.Time
	result   *pb.CheckResult
	blocking map[string]string // dates that a blocking check holds, with why
}

// Builder reads a journal, line by line and in order.
type Builder struct {
	out      *pb.Report
	begun    Activation
	known    bool
	ended    *Ending
	runs     map[run]*outcome
	times    map[run]*pb.ProcessorTime // without a date
	checks   map[string]*check
	throttle map[[2]string]int32
	tables   map[string]*pb.RollbackTable
	order    []string // of the tables
}

// New makes a builder for a backfill.
func New(id string) *Builder {
	return &Builder{
		out: &pb.Report{BackfillId: id}, runs: map[run]*outcome{}, times: map[run]*pb.ProcessorTime{}, checks: map[string]*check{},
		throttle: map[[2]string]int32{}, tables: map[string]*pb.RollbackTable{},
	}
}

// notable are the kinds that people are told of as they are; silent ones follow from the others, or from nothing.
var (
	notable = map[string]bool{"notice": true, "budget_warning": true, "rolled_back": true, "rollback_undone": true, "forgotten": true}
	silent  = map[string]bool{"unmatched": true, "triggered": true, "phase_completed": true}
)

// Add takes a line.
func (b *Builder) Add(e *pb.BackfillEvent) error {
	if b.out.GetPipeline() == "" {
		b.out.Pipeline = e.GetPipeline()
	}
	if b.out.GetCreatedAt() == nil {
		b.out.CreatedAt = e.GetAt()
	}
	switch kind := e.GetKind(); {
	case kind == "activated":
		return b.activated(e)
	case kind == "refused":
		b.out.State, b.out.Faults, b.out.RequestedBy, b.out.FinishedAt = kind, e.GetFaults(), e.GetRequestedBy(), e.GetAt()
	case kind == "completed" || kind == "incomplete" || kind == "cancelled":
		b.out.State, b.out.FinishedAt = kind, e.GetAt()
		b.ended = new(Ending)
		if err := json.Unmarshal([]byte(e.GetData()), b.ended); err != nil {
			return fmt.Errorf("reading the line %s of the journal: %w", e.GetId(), err)
		}
	case kind == "active" || kind == "pausing" || kind == "paused" || kind == "cancelling":
		b.out.State, b.out.FinishedAt = kind, nil
		b.note(e, kind)
	case notable[kind] || strings.HasPrefix(kind, "control_"):
		b.note(e, kind)
	case strings.HasPrefix(kind, "rollback_"):
		b.table(e, strings.TrimPrefix(kind, "rollback_"))
	case strings.HasPrefix(kind, "verified_") || kind == "verify_failure":
		b.verified(e)
	case kind == "check_failed" || kind == "check_passed":
		b.check(e)
	case kind == "window_changed":
		if e.GetMessage() != "calm" {
			b.throttle[[2]string{e.GetPhase(), e.GetMessage()}]++
		}
	case kind == "skipped":
		var names []string
		if err := json.Unmarshal([]byte(e.GetData()), &names); err != nil {
			return fmt.Errorf("reading the line %s of the journal: %w", e.GetId(), err)
		}
		for _, name := range names {
			b.runs[run{e.GetPhase(), name, e.GetDate()}] = &outcome{state: backfill.RunSkipped}
		}
	case silent[kind]:
	default:
		b.outcome(e)
	}
	return nil
}

func (b *Builder) activated(e *pb.BackfillEvent) error {
	// An id may be used again once its backfill was refused or forgotten: what was before was another's.
	*b = *New(b.out.GetBackfillId())
	b.out.Pipeline = e.GetPipeline()
	if err := json.Unmarshal([]byte(e.GetData()), &b.begun); err != nil {
		return fmt.Errorf("reading the line %s of the journal: %w", e.GetId(), err)
	}
	b.known = true
	b.out.CreatedAt, b.out.State, b.out.RequestedBy, b.out.Reason = e.GetAt(), "active", e.GetRequestedBy(), e.GetMessage()
	b.out.Request, b.out.Dates, b.out.BudgetUsd = Encode(b.begun.Request), int32(b.begun.Dates.Len()), b.begun.Request.BudgetUSD
	b.out.PlannedSeconds, b.out.PlannedP90Seconds, b.out.PlannedUsd = b.begun.Planned.P50.Seconds(), b.begun.Planned.P90.Seconds(), b.begun.Planned.USD
	return nil
}

// note keeps what people did, and what they were told.
func (b *Builder) note(e *pb.BackfillEvent, kind string) {
	text := e.GetAt().AsTime().UTC().Format(time.RFC3339) + " " + kind
	for _, part := range []string{e.GetMessage(), e.GetRequestedBy()} {
		if part != "" {
			text += ": " + part
		}
	}
	b.out.Notes = append(b.out.Notes, text)
}

// outcome takes a line about one run.
func (b *Builder) outcome(e *pb.BackfillEvent) {
	k := run{e.GetPhase(), e.GetProcessor(), e.GetDate()}
	if k.processor == "" || k.date == "" {
		return
	}
	o := b.runs[k]
	if o == nil {
		o = &outcome{state: backfill.RunPending}
		b.runs[k] = o
	}
	done := o.state == backfill.RunSucceeded
	switch e.GetKind() {
	case "dispatched":
		b.out.Attempts++
		if !done && o.state != backfill.RunWaived {
			o.state = backfill.RunInFlight
		}
	case "succeeded", "reported_skip":
		b.succeeded(e, o)
	case "partial":
		if e.GetData() == Accepted {
			b.succeeded(e, o)
		} else {
			o.fail(e)
		}
	case "failed", "rejected":
		o.fail(e)
	case "exhausted":
		if !done && o.state != backfill.RunWaived {
			o.state = backfill.RunExhausted
		}
	case "retried":
		if c, ok := backfill.CheckName(k.processor); ok {
			b.blocking(c, k.phase, k.date, "")
		} else if !done {
			o.state = backfill.RunRetrying
		}
	case "waived":
		b.out.Waivers = append(b.out.Waivers, &pb.Waiver{Date: k.date, Phase: k.phase, Processor: k.processor, RequestedBy: e.GetRequestedBy(), Reason: e.GetMessage()})
		if c, ok := backfill.CheckName(k.processor); ok {
			b.blocking(c, k.phase, k.date, "")
		} else if !done {
			o.state = backfill.RunWaived
		}
	}
}

// Accepted is the data of a partial success that counts as one.
const Accepted = "accepted"

func (o *outcome) fail(e *pb.BackfillEvent) {
	o.failures++
	o.last, o.fatal = e.GetMessage(), e.GetKind() == "rejected"
	if o.state != backfill.RunSucceeded && o.state != backfill.RunWaived {
		o.state = backfill.RunRetrying
	}
}

func (b *Builder) succeeded(e *pb.BackfillEvent, o *outcome) {
	if o.state == backfill.RunSucceeded {
		return // told again
	}
	o.state = backfill.RunSucceeded
	if e.GetDurationSeconds() <= 0 {
		return
	}
	k := run{phase: e.GetPhase(), processor: e.GetProcessor()}
	t := b.times[k]
	if t == nil {
		t = &pb.ProcessorTime{Phase: k.phase, Processor: k.processor}
		b.times[k] = t
	}
	t.Runs++
	t.TotalSeconds += e.GetDurationSeconds()
	t.MaxSeconds = max(t.GetMaxSeconds(), e.GetDurationSeconds())
	t.MeanSeconds = t.GetTotalSeconds() / float64(t.GetRuns())
}

func (b *Builder) checkOf(name, phase string) *check {
	c := b.checks[name]
	if c == nil {
		c = &check{result: &pb.CheckResult{Check: name, After: phase}, blocking: map[string]string{}}
		b.checks[name] = c
	}
	return c
}

// blocking notes that a blocking check holds a date, or holds it no longer.
func (b *Builder) blocking(name, phase, date, why string) {
	c := b.checkOf(name, phase)
	delete(c.blocking, date)
	if why != "" {
		c.blocking[date] = why
	}
}

func (b *Builder) check(e *pb.BackfillEvent) {
	name, ok := backfill.CheckName(e.GetProcessor())
	if !ok {
		return
	}
	b.checkOf(name, e.GetPhase()).result.Blocking = true
	why := ""
	if e.GetKind() == "check_failed" {
		why = e.GetMessage()
	}
	b.blocking(name, e.GetPhase(), e.GetDate(), why)
}

// verified takes a line of a verification. The newest verification of a check counts; its lines share their time.
func (b *Builder) verified(e *pb.BackfillEvent) {
	name, ok := backfill.CheckName(e.GetProcessor())
	if !ok {
		return
	}
	c := b.checkOf(name, e.GetPhase())
	if at := e.GetAt().AsTime(); !c.at.Equal(at) {
		c.at = at
		c.result.Failures, c.result.Detail, c.result.Result = nil, "", ""
	}
	if e.GetKind() == "verify_failure" {
		c.result.Failures = append(c.result.Failures, &pb.CheckFailure{Date: e.GetData(), Detail: e.GetMessage()})
		return
	}
	c.result.Result, c.result.Detail, c.result.Dates = strings.TrimPrefix(e.GetKind(), "verified_"), e.GetMessage(), int32(e.GetRecords())
	c.result.Kind = e.GetData()
}

func (b *Builder) table(e *pb.BackfillEvent, state string) {
	t := b.tables[e.GetMessage()]
	if t == nil {
		t = &pb.RollbackTable{Table: e.GetData(), Phase: e.GetPhase()}
		_, t.Snapshot, _ = strings.Cut(e.GetMessage(), ", snapshot ")
		b.tables[e.GetMessage()] = t
		b.order = append(b.order, e.GetMessage())
	}
	t.State, t.Deleted = state, max(t.GetDeleted(), e.GetRecords())
}
