package backfill

import "strings"

// checkPrefix tells the checks of a phase apart from its processors, in facts and in what people name.
const checkPrefix = "check:"

// Ref is what the check is called where processors are named: in failures, retries and waivers.
func (c *Check) Ref() Ref { return Ref{c.After, checkPrefix + c.Name} }

// CheckName is the name of the check that a processor's name stands for.
func CheckName(processor string) (string, bool) { return strings.CutPrefix(processor, checkPrefix) }

// CheckState is where a blocking check of one date stands.
type CheckState string

// The states of a check. Passed and waived ones let what comes after go.
const (
	CheckPending CheckState = "pending"
	CheckIsGood  CheckState = "passed"
	CheckIsBad   CheckState = "failed"
	CheckIsOver  CheckState = "waived"
)

// CheckRun is the derived state of a check: Attempt is the one to make, or the one that was made last.
type CheckRun struct {
	State   CheckState
	Attempt int
	Detail  string // of a failure
}

// Check derives where a check stands. The newest attempt counts, and of two outcomes of one attempt the worse: what
// is in doubt is held.
func (r *Record) Check(c *Check) CheckRun {
	run, retried := CheckRun{State: CheckPending, Attempt: 1}, 0
	for _, f := range r.runs[c.Ref()] {
		switch f.Kind {
		case Waived:
			return CheckRun{State: CheckIsOver, Attempt: f.Attempt}
		case Retried:
			retried = max(retried, f.Attempt)
		case CheckPassed, CheckFailed:
			if f.Attempt > run.Attempt || run.State == CheckPending || (f.Attempt == run.Attempt && f.Kind == CheckFailed) {
				run = CheckRun{State: CheckIsGood, Attempt: f.Attempt}
				if f.Kind == CheckFailed {
					run.State, run.Detail = CheckIsBad, f.Message
				}
			}
		default:
		}
	}
	if run.State != CheckPending && retried >= run.Attempt {
		return CheckRun{State: CheckPending, Attempt: retried + 1}
	}
	return run
}

// Blocking lists the checks that hold what comes after a phase that this backfill runs in the season.
func (s *Scope) Blocking(phase, season string) []*Check {
	ph, ok := s.Pipeline.Phase(phase)
	if !ok || !s.selected[phase] || !ph.AppliesTo(season) {
		return nil
	}
	var out []*Check
	for i := range s.Pipeline.Checks {
		if c := &s.Pipeline.Checks[i]; c.Blocking && c.After == phase {
			out = append(out, c)
		}
	}
	return out
}

// passes says whether the checks after a complete phase let what comes after it go; pending ones must be run first.
func (s *Scope) passes(r *Record, phase string) (ok, pending bool) {
	ok = true
	for _, c := range s.Blocking(phase, r.Season) {
		switch r.Check(c).State {
		case CheckPending:
			ok, pending = false, true
		case CheckIsBad:
			ok = false
		case CheckIsGood, CheckIsOver:
		}
	}
	return ok, pending
}
