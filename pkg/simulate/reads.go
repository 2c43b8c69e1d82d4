package simulate

import "sluice.dev/pkg/backfill"

// read looks whether what processors of a phase of a date read is there, in what the processors have done and by the calendar
// alone: it must not share the gates' reasoning, which it watches.
func (e *engine) read(i int, ph *backfill.Phase, processors []string) {
	if ph.Trigger.HTTP == nil {
		return // reads what its own scraper has just written
	}
	for _, after := range ph.After {
		if !ph.GateNeeds && !e.written(i, e.phases[after]) {
			e.out.Incomplete++
			return
		}
	}
	for _, name := range processors {
		proc, _ := ph.Processor(name)
		for _, w := range proc.Windows {
			if !e.windowWritten(i, w, ph.ID) {
				e.out.Incomplete++
				return
			}
		}
	}
}

// written says whether all processors of a phase of a date have ended well, where it runs at all.
func (e *engine) written(i, p int) bool {
	ph := &e.Pipeline.Phases[p]
	if !e.scope.Selected(ph.ID) || !ph.AppliesTo(e.scope.Dates.At(i).Season) {
		return true
	}
	return e.state.doneIn(i, p) == len(ph.Processors)
}

func (e *engine) windowWritten(i int, w backfill.Window, phase string) bool {
	own := e.scope.Dates.At(i)
	at, _ := e.scope.Calendar.Index(own.Date)
	for n := 0; at-n >= 0; n++ {
		part := e.scope.Calendar.At(at - n)
		if (w.Games > 0 && n > w.Games) || (w.Days > 0 && own.Date-part.Date > backfill.Date(w.Days)) || (w.SameSeason && part.Season != own.Season) {
			return true
		}
		j, ours := e.scope.Dates.Index(part.Date)
		if !ours || (n == 0 && w.Phase == phase) {
			continue
		}
		if !e.written(j, e.phases[w.Phase]) {
			return false
		}
	}
	return true
}
