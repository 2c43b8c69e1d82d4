package backfill

import "slices"

// Cell is a phase of a date.
type Cell struct {
	Date  Date
	Phase string
}

// Known is what is known of other dates. Completeness never goes away, so what is remembered stays good.
type Known interface {
	// Complete says whether a cell is complete, and whether that is known at all.
	Complete(c Cell) (complete, known bool)
	// Prefix is how many of the backfill's first dates are known to be complete in a phase. It may be fewer
	// than there are: it only saves looking at each.
	Prefix(phase string) int
}

// KnownFunc is a Known that remembers no prefix.
type KnownFunc func(Cell) (complete, known bool)

// Complete implements Known.
func (f KnownFunc) Complete(c Cell) (complete, known bool) { return f(c) }

// Prefix implements Known.
func (KnownFunc) Prefix(string) int { return 0 }

// Opening is what the gate says of a phase on a date.
type Opening struct {
	// Start lists the processors that may run now and are not done, in the pipeline's order.
	Start []string
	// Waits lists the cells on other dates that are known to be incomplete and hold processors back.
	Waits []Cell
	// Ask lists cells whose state must be learnt before more can be said.
	Ask []Cell
	// Checks lists complete phases of the date whose blocking checks must be run before more can be said.
	Checks []string
}

// Open decides which processors of a phase may start on the record's date. It never lets a processor go
// whose needs are not all succeeded, skipped or waived.
func (s *Scope) Open(r *Record, ph *Phase, known Known) Opening {
	var o Opening
	held := false
	for _, after := range ph.After {
		complete := s.Complete(r, after)
		if !complete && !ph.GateNeeds {
			return Opening{}
		}
		if !complete {
			continue
		}
		// What does not wait for the whole phase does not wait for its checks either, unless one has failed.
		ok, pending := s.passes(r, after)
		if pending && !ph.GateNeeds {
			o.Checks = append(o.Checks, after)
		}
		held = held || (!ok && (!pending || !ph.GateNeeds))
	}
	if held {
		return o
	}
	if !s.allComplete(s.barrier(r.Date, ph), r.Date, known, &o) {
		return o
	}
	perPhase := ph.Trigger.HTTP != nil && ph.Trigger.HTTP.PerPhase
	held = false
	for i := range ph.Processors {
		proc := &ph.Processors[i]
		if r.Run(s.ID, ph, proc).State.Done() {
			continue
		}
		if !s.needsDone(r, ph, proc, perPhase) || !s.windowsComplete(r, ph, proc, known, &o) {
			held = true
			continue
		}
		o.Start = append(o.Start, proc.Name)
	}
	if perPhase && held {
		o.Start = nil // one call starts them all, so it waits for the last of them
	}
	return o
}

// needsDone looks at the processors that this one names. One call for a whole phase orders its own inside.
func (s *Scope) needsDone(r *Record, ph *Phase, proc *Processor, perPhase bool) bool {
	for _, ref := range proc.Needs {
		if ref.Phase == ph.ID && perPhase {
			continue
		}
		np, ok := s.Pipeline.Phase(ref.Phase)
		if !ok {
			return false
		}
		if !s.selected[np.ID] || !np.AppliesTo(r.Season) {
			continue
		}
		pr, ok := np.Processor(ref.Processor)
		if !ok || !r.Run(s.ID, np, pr).State.Done() {
			return false
		}
	}
	return true
}

func (s *Scope) windowsComplete(r *Record, ph *Phase, proc *Processor, known Known, o *Opening) bool {
	for _, w := range proc.Windows {
		if !s.selected[w.Phase] {
			continue
		}
		if w.Phase != ph.ID && !s.Complete(r, w.Phase) {
			return false
		}
		if !s.allComplete([]stretch{s.covered(w, ph.ID, r.Date)}, r.Date, known, o) {
			return false
		}
	}
	return true
}

// stretch is a phase of the backfill's dates from one position up to, and without, another.
type stretch struct {
	phase    string
	from, to int
}

func (x stretch) contains(phase string, at int) bool {
	return x.phase == phase && x.from <= at && at < x.to
}

// covered is the part of a window that the backfill's own dates fill.
func (s *Scope) covered(w Window, phase string, d Date) stretch {
	parts := s.Window(w, phase, d)
	if len(parts) == 0 {
		return stretch{phase: w.Phase}
	}
	return stretch{w.Phase, s.Dates.search(parts[0].Date), s.Dates.search(parts[len(parts)-1].Date + 1)}
}

// allComplete walks stretches, but for date self, oldest first, and stops at the first cell that holds; nearby
// cells usually share it. What lies within a phase's prefix is not even walked.
func (s *Scope) allComplete(stretches []stretch, self Date, known Known, o *Opening) bool {
	for _, x := range stretches {
		for i := max(x.from, min(x.to, known.Prefix(x.phase))); i < x.to; i++ {
			c := Cell{s.Dates.parts[i].Date, x.phase}
			if c.Date == self {
				continue
			}
			complete, ok := known.Complete(c)
			if ok && complete {
				continue
			}
			if ok {
				o.Waits = append(o.Waits, c)
				return false
			}
			for ; i < x.to && len(o.Ask) < maxAsk; i++ {
				if d := s.Dates.parts[i].Date; d != self {
					o.Ask = append(o.Ask, Cell{d, x.phase})
				}
			}
			return false
		}
	}
	return true
}

// maxAsk bounds how many cells are asked for at once: the first that is incomplete settles the matter.
const maxAsk = 64

// Window lists the calendar's partitions that a window of a processor of phase covers on date d, in order.
func (s *Scope) Window(w Window, phase string, d Date) []Partition {
	last := d
	if w.Phase == phase {
		last = d - 1
	}
	var parts []Partition
	if w.Games > 0 {
		i := s.Calendar.search(d)
		parts = s.Calendar.parts[max(0, i-w.Games):s.Calendar.search(last+1)]
	} else {
		parts = s.Calendar.Between(d-Date(w.Days), last)
	}
	if i, ok := s.Calendar.Index(d); w.SameSeason && ok {
		season := s.Calendar.At(i).Season
		for len(parts) > 0 && parts[0].Season != season {
			parts = parts[1:]
		}
	}
	return parts
}

// barrier is what the backfill's order puts before a phase of a date.
func (s *Scope) barrier(d Date, ph *Phase) []stretch {
	i, ok := s.Dates.Index(d)
	if !ok {
		return nil
	}
	var out []stretch
	switch {
	case s.Order == OrderDateByDate || i < s.Validate:
		out = s.wholeDate(i - 1)
	case s.Validate > 0:
		out = s.wholeDate(s.Validate - 1)
	}
	// The dates that validate run all phases first; waiting there for the others would wait for ever.
	if s.Order == OrderPhaseByPhase && i >= s.Validate {
		for _, after := range ph.After {
			if s.selected[after] {
				out = append(out, stretch{after, 0, s.Dates.Len()})
			}
		}
	}
	return out
}

// wholeDate is all phases of the i-th date.
func (s *Scope) wholeDate(i int) []stretch {
	if i < 0 {
		return nil
	}
	var out []stretch
	for _, ph := range s.Phases(s.Dates.At(i).Season) {
		out = append(out, stretch{ph.ID, i, i + 1})
	}
	return out
}

// Dependents lists the other dates whose gates may open once a phase of date d is complete, in order. Where
// phases go one by one, that is nobody until the phase is known to be complete on all dates.
func (s *Scope) Dependents(d Date, phase string, known Known) []Date {
	at, ok := s.Dates.Index(d)
	if !ok {
		return nil
	}
	last := s.Validate > 0 && at == s.Validate-1
	if last || (s.Order == OrderPhaseByPhase && known.Prefix(phase) >= s.Dates.Len()) {
		return s.datesExcept(d)
	}
	until := d
	if (s.Order == OrderDateByDate || at < s.Validate) && at+1 < s.Dates.Len() {
		until = s.Dates.At(at + 1).Date
	}
	for i := range s.Pipeline.Phases {
		for j := range s.Pipeline.Phases[i].Processors {
			for _, w := range s.Pipeline.Phases[i].Processors[j].Windows {
				if w.Phase == phase {
					until = max(until, s.reach(w, d))
				}
			}
		}
	}
	var out []Date
	for _, p := range s.Dates.Between(d+1, until) {
		out = append(out, p.Date)
	}
	return out
}

// reach is the last date whose window still covers d.
func (s *Scope) reach(w Window, d Date) Date {
	if w.Games == 0 {
		return d + Date(w.Days)
	}
	i, _ := s.Calendar.Index(d)
	if s.Calendar.Len() == 0 {
		return d
	}
	return s.Calendar.At(min(i+w.Games, s.Calendar.Len()-1)).Date
}

func (s *Scope) datesExcept(d Date) []Date {
	out := make([]Date, 0, s.Dates.Len())
	for _, p := range s.Dates.parts {
		if p.Date != d {
			out = append(out, p.Date)
		}
	}
	return out
}

// Held says whether a phase of date d has nothing to gain from a cell that became complete: no condition of
// its reaches the cell, or every condition that does is still held back by another date. It looks at
// other dates only, so that most dates need not be read at all.
func (s *Scope) Held(d Date, ph *Phase, done Cell, known Known) (held bool, ask []Cell) {
	var o Opening
	if s.Order == OrderPhaseByPhase && slices.Contains(ph.After, done.Phase) && known.Prefix(done.Phase) >= s.Dates.Len() {
		return false, nil // all dates of the phase above are done: that is what this one waited for
	}
	at, ours := s.Dates.Index(done.Date)
	if !ours {
		return true, nil
	}
	conditions := [][]stretch{s.barrier(d, ph)}
	for i := range ph.Processors {
		for _, w := range ph.Processors[i].Windows {
			if w.Phase == done.Phase {
				conditions = append(conditions, []stretch{s.covered(w, ph.ID, d)})
			}
		}
	}
	held = true
	for _, stretches := range conditions {
		if !slices.ContainsFunc(stretches, func(x stretch) bool { return x.contains(done.Phase, at) }) {
			continue
		}
		if s.allComplete(stretches, d, known, &o) {
			held = false
		}
		if len(o.Ask) > 0 {
			return true, o.Ask
		}
	}
	return held, nil
}
