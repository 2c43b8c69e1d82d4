package backfill

import (
	"slices"
	"time"
)

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
			if !ph.called(w.Processor, w.Attempt) {
				waits = append(waits, w)
				continue
			}
			src, _ := ph.OnTimeout.Source(w.Processor)
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

// called says whether an attempt is a call of ours, and not one that the platform makes by itself.
func (ph *Phase) called(processor string, attempt int) bool {
	if ph.Trigger.HTTP != nil {
		return true
	}
	_, found := ph.OnTimeout.Source(processor)
	return found && attempt > 1
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

// Allowance is how long an attempt may take in all: the processor's timeout once for itself, and once for every
// turn of work that is queued before it out of our sight. That is what else the platform has started by itself and
// works on, in turns of max_processors, and the processors that one call for a whole phase runs before this one.
// Waiting for admission does not count: the time begins with the call.
func (ph *Phase) Allowance(proc *Processor, inFlight int) time.Duration {
	turns := 1
	switch {
	case ph.Trigger.HTTP == nil && ph.MaxProcessors > 0:
		turns += inFlight / ph.MaxProcessors
	case ph.Trigger.HTTP != nil && ph.Trigger.HTTP.PerPhase:
		turns += ph.before(proc)
	}
	return time.Duration(turns) * proc.Timeout
}

// before is how many of the phase's processors run one after the other before this one.
func (ph *Phase) before(proc *Processor) int {
	longest := 0
	for _, need := range proc.Needs {
		if np, ok := ph.Processor(need.Processor); ok && need.Phase == ph.ID {
			longest = max(longest, 1+ph.before(np))
		}
	}
	return longest
}
