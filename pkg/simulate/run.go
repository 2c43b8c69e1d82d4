package simulate

import (
	"container/heap"
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
)

// Setting is what is simulated: a planned backfill in a world.
type Setting struct {
	Backfill *backfill.Backfill
	Pipeline *backfill.Pipeline
	Records  []backfill.Record // one per date, with what is done already
	World    World
	Trace    bool // find the critical path too
}

// Outcome is how a simulated run went.
type Outcome struct {
	Makespan  time.Duration
	Completed bool // every date
	Attempts  int  // calls that were not turned away, and runs that the platform started by itself
	Retries   int  // attempts that failed and were made again
	Exhausted int
	Throttles int // calls answered 429
	// Incomplete counts phases of dates that started although data they read was not complete. It is counted
	// from what the processors did, not from what the gates knew.
	Incomplete int
	Phases     []PhaseRun
	Limiters   map[string]LimiterRun
	Path       []Step
}

// PhaseRun is a phase of the run, in the pipeline's order.
type PhaseRun struct {
	ID         string
	Runs       int
	Calls      int // of processors over HTTP
	Start, End time.Duration
	Busy       time.Duration // of all processors together
	Peak       int           // processors at once, of those that we call
	Limit      int           // processors at once, 0 for no limit
}

// LimiterRun is a limiter in the run.
type LimiterRun struct {
	backfill.Limiter
	Calls int
	Busy  time.Duration // of all calls together
}

// virtual is when every simulation begins.
var virtual = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// engine is a simulation under way.
type engine struct {
	Setting
	*layout
	seed    uint64
	sched   *backfill.Scheduler
	records []backfill.Record
	now     time.Duration
	agenda  agenda
	seq     int
	admitAt time.Duration // when admission is looked at again, -1 for not planned
	state   progress
	apis    map[string]*api
	tries   map[backfill.RunKey]int // calls of an attempt that were turned away
	trace   []span                  // of every run, when it is asked for
	cause   int                     // the run whose end is being dealt with, -1 for none
	out     Outcome
}

// Run simulates a backfill from its start to its end.
func Run(s Setting, seed uint64) Outcome {
	e := newEngine(s, seed)
	e.begin()
	e.loop()
	e.out.Makespan = e.now
	e.out.Completed = e.state.open == 0
	if s.Trace {
		e.out.Path = e.path()
	}
	return e.out
}

func newEngine(s Setting, seed uint64) *engine {
	e := &engine{
		Setting: s, layout: newLayout(s.Backfill, s.Pipeline, &s.World), seed: seed, sched: backfill.NewScheduler(0, 0), admitAt: -1,
		records: make([]backfill.Record, len(s.Records)), apis: map[string]*api{}, tries: map[backfill.RunKey]int{}, cause: -1,
	}
	e.state = newProgress(e.layout)
	e.out.Limiters = map[string]LimiterRun{}
	for name, l := range s.Pipeline.Limiters {
		e.out.Limiters[name] = LimiterRun{Limiter: l}
		e.apis[name] = &api{Limiter: l, tokens: float64(max(1, l.Burst))}
	}
	for i := range s.Pipeline.Phases {
		e.out.Phases = append(e.out.Phases, PhaseRun{ID: s.Pipeline.Phases[i].ID, Start: -1, Limit: e.limits[i]})
	}
	if s.Trace {
		e.trace = make([]span, len(s.Records)*e.procs)
		for i := range e.trace {
			e.trace[i].ready = -1
		}
	}
	e.sched.Add(e.scope.ID, s.Pipeline, s.Backfill.Request.Limits)
	return e
}

// begin takes in what is done already, then opens what may start.
func (e *engine) begin() {
	for i := range e.Records {
		e.records[i] = backfill.NewRecord(e.Records[i].Date, e.Records[i].Season, e.Records[i].Facts()...) // its own copy
		rec := &e.records[i]
		for _, ph := range e.scope.Phases(rec.Season) {
			e.state.expect(i)
			for j := range ph.Processors {
				if rec.Run(e.scope.ID, ph, &ph.Processors[j]).State.Done() {
					e.state.finish(i, e.phases[ph.ID])
				}
			}
		}
		e.settle(i)
	}
	for i := range e.records {
		e.open(i)
	}
	e.admit()
}

func (e *engine) loop() {
	for len(e.agenda) > 0 {
		e.now = e.agenda[0].at
		for len(e.agenda) > 0 && e.agenda[0].at == e.now {
			h := heap.Pop(&e.agenda).(happening)
			e.cause = h.date*e.procs + h.proc
			switch h.kind {
			case report:
				e.report(h)
			case answer:
				e.answered(h)
			case admit:
				e.admitAt = -1
			case wake:
				e.cause = -1
				e.look(h.date)
			}
		}
		e.admit()
	}
}

func (e *engine) plan(h happening) {
	e.seq++
	h.seq = e.seq
	heap.Push(&e.agenda, h)
}

func (e *engine) clock() time.Time { return virtual.Add(e.now) }

// key names a run for the scheduler.
func (e *engine) key(date, proc int) backfill.RunKey {
	r := e.refs[proc]
	return backfill.RunKey{Lane: backfill.Lane{Backfill: e.scope.ID, Phase: r.Phase}, Date: e.records[date].Date, Processor: r.Processor}
}

func (e *engine) fact(proc, attempt int, k backfill.Kind) backfill.Fact {
	r := e.refs[proc]
	return backfill.Fact{Key: backfill.Key{Phase: r.Phase, Processor: r.Processor, Attempt: attempt, Kind: k}, Value: backfill.Value{At: e.clock()}}
}

// admit makes the calls that may go now.
func (e *engine) admit() {
	for _, j := range e.sched.Admit(e.clock()) {
		i, _ := e.scope.Dates.Index(j.Date)
		e.call(i, j)
		inFlight, _ := e.sched.Load(j.Lane)
		out := &e.out.Phases[e.phases[j.Phase]]
		out.Peak = max(out.Peak, inFlight)
	}
	next := e.sched.Next(e.clock())
	if next.IsZero() {
		return
	}
	if at := max(next.Sub(virtual), e.now+1); e.admitAt < 0 || at < e.admitAt {
		e.admitAt = at
		e.plan(happening{at: at, kind: admit})
	}
}

// call is the world's side of a call.
func (e *engine) call(i int, j backfill.Job) {
	p := e.phases[j.Phase]
	ph := &e.Pipeline.Phases[p]
	first := e.proc(j.Phase, j.Processors[0])
	if e.turnedAway(i, j, first) {
		return
	}
	for n, name := range j.Processors {
		e.records[i].Grow(e.fact(e.proc(j.Phase, name), j.Attempts[n], backfill.Dispatched))
	}
	e.read(i, ph, j.Processors)
	e.out.Phases[p].Calls++
	var longest time.Duration
	if ph.Trigger.HTTP == nil { // the earlier phase's processor runs again, and its end starts this one
		source := e.sources[first]
		longest = e.World.draw(e.seed, e.spreads[source], j.Date, source, 100+j.Attempts[0]).took
		e.plan(happening{at: e.now + longest, kind: answer, date: i, proc: first, attempt: j.Attempts[0]})
	} else {
		ends := map[string]time.Duration{} // of the processors of this call
		for _, proc := range e.inOrder(ph, j.Processors) {
			n := slices.Index(j.Processors, proc.Name)
			var begin time.Duration
			if ph.Trigger.HTTP.PerPhase {
				for _, need := range proc.Needs {
					begin = max(begin, ends[need.Processor])
				}
			}
			at := e.proc(j.Phase, proc.Name)
			e.waited(i, at, j)
			ends[proc.Name] = e.run(i, at, j.Attempts[n], begin)
			longest = max(longest, ends[proc.Name])
		}
		if ph.Trigger.HTTP.Async {
			longest = 0
			for _, name := range j.Processors {
				e.sched.Returned(e.key(i, e.proc(j.Phase, name)))
			}
		}
	}
	if j.Limiter != "" {
		l := e.out.Limiters[j.Limiter]
		l.Calls++
		l.Busy += longest
		e.out.Limiters[j.Limiter] = l
	}
}

// run lets a processor work, from the given time on, and says when it ends, both counted from now.
func (e *engine) run(i, proc, attempt int, begin time.Duration) time.Duration {
	d := e.World.draw(e.seed, e.spreads[proc], e.records[i].Date, proc, attempt)
	if limit := e.processors[proc].Timeout; limit > 0 && d.took > limit {
		d = draw{limit, false}
	}
	out := &e.out.Phases[e.phaseOf[proc]]
	out.Runs++
	out.Busy += d.took
	e.out.Attempts++
	if start := e.now + begin; out.Start < 0 || start < out.Start {
		out.Start = start
	}
	end := begin + d.took
	out.End = max(out.End, e.now+end)
	e.started(i, proc, begin, end)
	e.plan(happening{at: e.now + end + e.World.Latency, kind: report, ok: d.ok, date: i, proc: proc, attempt: attempt})
	return end
}

// turnedAway asks the outside API, and puts a call back that it answers 429.
func (e *engine) turnedAway(i int, j backfill.Job, first int) bool {
	k := e.key(i, first)
	wait := time.Duration(0)
	if a := e.apis[j.Limiter]; a != nil {
		wait = a.ask(e.now)
	}
	if wait == 0 && e.World.throttled(e.seed, j.Date, first, j.Attempts[0], e.tries[k]) {
		wait = e.processors[first].Backoff.Initial
	}
	if wait == 0 {
		delete(e.tries, k)
		return false
	}
	e.tries[k]++
	e.out.Throttles++
	j.Repeat = true
	e.sched.Throttled(j, e.clock().Add(wait), "429", e.clock())
	return true
}

// answered starts a processor of the platform whose input was made once more.
func (e *engine) answered(h happening) {
	e.sched.Finish(e.key(h.date, h.proc), backfill.Calm, "", e.clock())
	e.run(h.date, h.proc, h.attempt, 0)
}

// report takes in how a run ended.
func (e *engine) report(h happening) {
	rec := &e.records[h.date]
	p := e.phaseOf[h.proc]
	ph := &e.Pipeline.Phases[p]
	k := e.key(h.date, h.proc)
	if !h.ok {
		rec.Grow(e.fact(h.proc, h.attempt, backfill.Failed))
		e.sched.Ended(k, h.attempt, backfill.Neutral, e.clock())
		e.failed(h.date, rec.Run(e.scope.ID, ph, e.processors[h.proc]))
		return
	}
	rec.Grow(e.fact(h.proc, h.attempt, backfill.Succeeded))
	e.sched.Ended(k, h.attempt, backfill.Calm, e.clock())
	if fed := e.feeds[h.proc]; fed >= 0 && e.scope.Selected(e.refs[fed].Phase) {
		if run := rec.Run(e.scope.ID, &e.Pipeline.Phases[e.phaseOf[fed]], e.processors[fed]); !run.State.Done() {
			e.ready(h.date, fed)
			e.run(h.date, fed, run.Attempt, -e.World.Latency)
		}
	}
	e.state.finish(h.date, p)
	for _, done := range e.settle(h.date) {
		e.open(h.date)
		e.wakeOthers(h.date, done)
	}
	if e.needed[h.proc] {
		e.open(h.date)
	}
	if e.state.left[h.date] == 0 {
		e.records[h.date] = backfill.NewRecord(rec.Date, rec.Season) // nobody asks for its facts any more
	}
}

func (e *engine) failed(date int, run backfill.Run) {
	if run.State == backfill.RunExhausted {
		e.out.Exhausted++
		return
	}
	e.out.Retries++
	e.plan(happening{at: run.DueAt.Sub(virtual), kind: wake, date: date})
}
