package simulate

import (
	"slices"

	"sluice.dev/pkg/backfill"
)

// settle notes the phases of a date that have become complete, and lists them.
func (e *engine) settle(i int) []int {
	var out []int
	rec := &e.records[i]
	for again := true; again; {
		again = false
		for p := range e.Pipeline.Phases {
			ph := &e.Pipeline.Phases[p]
			applies := e.scope.Selected(ph.ID) && ph.AppliesTo(rec.Season)
			if e.state.isComplete(i, p) || (applies && e.state.doneIn(i, p) < len(ph.Processors)) || (!applies && !e.scope.Complete(rec, ph.ID)) {
				continue
			}
			e.state.setComplete(i, p, applies)
			out, again = append(out, p), true
		}
	}
	return out
}

// open triggers what may start on a date.
func (e *engine) open(i int) {
	rec := &e.records[i]
	opened := false
	for _, ph := range e.scope.Phases(rec.Season) {
		p := e.phases[ph.ID]
		if e.state.isStarted(i, p) || !e.mayOpen(i, ph) {
			continue
		}
		start := e.scope.Open(rec, ph, &e.state).Start
		for _, name := range start {
			mark := backfill.Fact{Key: backfill.Key{Phase: ph.ID, Processor: name, Kind: backfill.Triggered}, Value: backfill.Value{At: e.clock()}}
			if !rec.Has(mark.Key) {
				rec.Grow(mark)
				opened = true
				if run := rec.Run(e.scope.ID, ph, e.processors[e.proc(ph.ID, name)]); run.State == backfill.RunRetrying {
					e.plan(happening{at: max(e.now, run.DueAt.Sub(virtual)), kind: wake, date: i})
				}
			}
		}
		if len(start)+e.state.doneIn(i, p) >= len(ph.Processors) {
			e.state.start(i, p)
		}
	}
	if opened {
		e.look(i)
	}
}

// mayOpen saves asking the gate while the date's own phases are known to be incomplete.
func (e *engine) mayOpen(i int, ph *backfill.Phase) bool {
	return ph.GateNeeds || !slices.ContainsFunc(ph.After, func(a string) bool { return !e.state.isComplete(i, e.phases[a]) })
}

// look offers what is due on a date to admission.
func (e *engine) look(i int) {
	rec := &e.records[i]
	jobs, waits := e.scope.Jobs(rec.Date, e.scope.Examine(rec, e.clock(), false).Ready)
	for _, j := range jobs {
		for _, name := range j.Processors {
			e.ready(i, e.proc(j.Phase, name))
		}
		e.sched.Offer(j)
	}
	for _, w := range waits {
		proc := e.proc(w.Phase, w.Processor)
		rec.Grow(e.fact(proc, w.Attempt, backfill.Dispatched))
		if e.sources[proc] < 0 { // nothing on record starts it: that the gate does is the best guess
			e.ready(i, proc)
			e.run(i, proc, w.Attempt, 0)
		}
	}
}

// wakeOthers opens what waited for a phase of a date on other dates.
func (e *engine) wakeOthers(i, p int) {
	cell := backfill.Cell{Date: e.records[i].Date, Phase: e.Pipeline.Phases[p].ID}
	for _, d := range e.scope.Dependents(cell.Date, cell.Phase, &e.state) {
		j, _ := e.scope.Dates.Index(d)
		for _, ph := range e.scope.Phases(e.records[j].Season) {
			if e.state.isStarted(j, e.phases[ph.ID]) {
				continue
			}
			if held, _ := e.scope.Held(d, ph, cell, &e.state); !held {
				e.open(j)
				break
			}
		}
	}
}
