package backfill

import "slices"

// Jobs turns work that may start now into calls: one for each processor, or one for all of a phase that takes
// one call. Waits are the attempts that the platform makes by itself, of which only the time is taken; when one
// must be made again, that is a call of the earlier phase that feeds it.
func (s *Scope) Jobs(date Date, ready []Work) (jobs []Job, waits []Work) {
	perPhase := map[string]int{}
	for _, w := range ready {
		ph, _ := s.Pipeline.Phase(w.Phase)
		proc, _ := ph.Processor(w.Processor)
		job := Job{
			Lane: Lane{s.ID, w.Phase}, Date: date, Processors: []string{w.Processor}, Attempts: []int{w.Attempt},
			Repeat: w.Repeat, Limiter: proc.Limiter, Chain: ph.chain(w.Processor),
		}
		if ph.Trigger.HTTP == nil {
			src, found := ph.OnTimeout.Source(w.Processor)
			if w.Attempt == 1 || !found {
				waits = append(waits, w)
				continue
			}
			from, _ := s.Pipeline.Phase(src.Phase)
			source, _ := from.Processor(src.Processor)
			job.Limiter = source.Limiter
		} else if ph.Trigger.HTTP.PerPhase {
			if i, ok := perPhase[w.Phase]; ok {
				one := &jobs[i]
				one.Processors, one.Attempts = append(one.Processors, w.Processor), append(one.Attempts, w.Attempt)
				one.Repeat = one.Repeat || w.Repeat
				continue
			}
			perPhase[w.Phase] = len(jobs)
		}
		jobs = append(jobs, job)
	}
	return jobs, waits
}

// chain is how many of the phase's processors run one after the other behind this one.
func (ph *Phase) chain(processor string) int {
	longest := 0
	for i := range ph.Processors {
		if slices.Contains(ph.Processors[i].Needs, Ref{ph.ID, processor}) {
			longest = max(longest, 1+ph.chain(ph.Processors[i].Name))
		}
	}
	return longest
}
