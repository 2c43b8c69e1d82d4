package simulate

import (
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
)

// span is when a run could start, did start and ended, and the run whose end made it possible.
type span struct {
	ready, start, end time.Duration
	cause             int
	attempts          int
	held              hold
}

// hold is what made a run wait that was ready.
type hold uint8

const (
	byNothing    hold = iota
	byProcessors      // the phase's max_processors
	byLimiter
	byDates // the phase's max_dates, or its ramp
)

// Step is a part of the critical path: a run, retries included, or the wait for room before it.
type Step struct {
	Date       backfill.Date
	Ref        backfill.Ref
	Wait       string // the limit that was waited for; empty for the run itself
	Start, End time.Duration
	Attempts   int
}

func (e *engine) ready(date, proc int) {
	if e.trace == nil {
		return
	}
	if t := &e.trace[date*e.procs+proc]; t.ready < 0 {
		t.ready, t.cause = e.now, e.cause
	}
}

// waited notes what held a run back that is admitted now. Everything that could be admitted is, at every moment,
// so a run was held by what is full even now, with it.
func (e *engine) waited(date, proc int, j backfill.Job) {
	if e.trace == nil {
		return
	}
	t := &e.trace[date*e.procs+proc]
	if t.attempts > 0 || t.ready == e.now {
		return
	}
	inFlight, limit := e.sched.Load(j.Lane)
	switch {
	case inFlight >= limit:
		t.held = byProcessors
	case j.Limiter != "":
		t.held = byLimiter
	default:
		t.held = byDates
	}
}

func (e *engine) started(date, proc int, begin, end time.Duration) {
	if e.trace == nil {
		return
	}
	t := &e.trace[date*e.procs+proc]
	if t.attempts == 0 {
		t.start = e.now + begin
	}
	t.attempts++
	t.end = e.now + end
}

// path walks back from the last run to the start: each run to the one whose end made it possible.
func (e *engine) path() []Step {
	last := -1
	for i := range e.trace {
		if e.trace[i].attempts > 0 && (last < 0 || e.trace[i].end > e.trace[last].end) {
			last = i
		}
	}
	var out []Step
	for at := last; at >= 0; at = e.trace[at].cause {
		t, date, ref := &e.trace[at], e.records[at/e.procs].Date, e.refs[at%e.procs]
		out = append(out, Step{Date: date, Ref: ref, Start: t.start, End: t.end, Attempts: t.attempts})
		if t.held != byNothing && t.start > t.ready {
			out = append(out, Step{Date: date, Ref: ref, Wait: e.limitName(ref, t.held), Start: t.ready, End: t.start})
		}
	}
	slices.Reverse(out)
	return out
}

func (e *engine) limitName(ref backfill.Ref, h hold) string {
	switch h {
	case byLimiter:
		return e.processors[e.byRef[ref]].Limiter
	case byProcessors:
		return ref.Phase + ".max_processors"
	case byDates:
		return ref.Phase + ".max_dates"
	case byNothing:
	}
	return ""
}
