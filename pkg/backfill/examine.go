package backfill

import "time"

// Work is an attempt that should be made now.
type Work struct {
	Ref
	Attempt int
	Repeat  bool          // the attempt was made already, and its call is known to be lost
	Within  time.Duration // of an attempt in flight: how long it may take
}

// Expired is an attempt in flight that has had its time.
type Expired struct {
	Work
	Deadline time.Time
}

// Findings is what a look at a date's record says must be done about it.
type Findings struct {
	Ready   []Work    // triggered, due, and nobody answered for them yet
	Expired []Expired // in flight for longer than the timeout: count as failed
	Running []Work    // in flight at a target that accepted them: they take up room
	Next    time.Time // when to look again, zero for never
	Open    bool      // something triggered is not over yet
}

// Examine derives what the dispatcher must do about a date. restart says that calls made before now are
// known to be lost with the process that made them: attempts that the target did not accept are repeated
// under the same key.
func (s *Scope) Examine(r *Record, now time.Time, restart bool) Findings {
	var f Findings
	for _, ph := range s.Phases(r.Season) {
		all := r.Has(Key{Phase: ph.ID, Kind: Triggered})
		for i := range ph.Processors {
			proc := &ph.Processors[i]
			if !all && !r.Has(Key{Phase: ph.ID, Processor: proc.Name, Kind: Triggered}) {
				continue
			}
			s.examine(&f, r.Run(s.ID, ph, proc), ph, proc, now, restart)
		}
	}
	return f
}

func (s *Scope) examine(f *Findings, run Run, ph *Phase, proc *Processor, now time.Time, restart bool) {
	work := Work{Ref: Ref{ph.ID, proc.Name}, Attempt: run.Attempt}
	switch run.State {
	case RunPending:
		f.Ready, f.Open = append(f.Ready, work), true
	case RunRetrying:
		f.Open = true
		if run.DueAt.After(now) {
			f.Next = Sooner(f.Next, run.DueAt)
		} else {
			f.Ready = append(f.Ready, work)
		}
	case RunInFlight:
		f.Open = true
		deadline := run.Since.Add(run.Within)
		work.Within = run.Within
		if run.Accepted && ph.Trigger.HTTP != nil {
			f.Running = append(f.Running, work)
		}
		switch {
		case restart && !run.Accepted && ph.called(proc.Name, run.Attempt):
			work.Repeat = true
			f.Ready = append(f.Ready, work)
		case deadline.After(now):
			f.Next = Sooner(f.Next, deadline)
		default:
			f.Expired = append(f.Expired, Expired{work, deadline})
		}
	case RunSucceeded, RunSkipped, RunWaived, RunExhausted:
	}
}

// CellState is where a phase of a date stands, for people.
func (s *Scope) CellState(r *Record, ph *Phase) (string, Tally) {
	t := s.Tally(r, ph)
	switch {
	case t.Complete():
		return "complete", t
	case t.Exhausted > 0:
		return "failed", t
	case t.InFlight+t.Retrying+t.Done() > 0:
		return "running", t
	default:
		return "waiting", t
	}
}

// Failure is a processor that used up its attempts.
type Failure struct {
	Ref
	Run
}

// Failures lists the exhausted processors and the failed checks of a date.
func (s *Scope) Failures(r *Record) []Failure {
	var out []Failure
	for _, ph := range s.Phases(r.Season) {
		for _, c := range s.Blocking(ph.ID, r.Season) {
			if run := r.Check(c); run.State == CheckIsBad {
				out = append(out, Failure{c.Ref(), Run{State: RunExhausted, Attempt: run.Attempt + 1, LastError: run.Detail, Retryable: true}})
			}
		}
		for i := range ph.Processors {
			if run := r.Run(s.ID, ph, &ph.Processors[i]); run.State == RunExhausted {
				out = append(out, Failure{Ref{ph.ID, ph.Processors[i].Name}, run})
			}
		}
	}
	return out
}
