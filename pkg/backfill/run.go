package backfill

import (
	"hash/fnv"
	"math"
	"time"
)

// RunState is where one processor stands on one date.
type RunState string

// The states of a run; the last three count as done for a gate.
const (
	RunPending   RunState = "pending"
	RunInFlight  RunState = "in_flight"
	RunRetrying  RunState = "retrying"
	RunExhausted RunState = "exhausted"
	RunSucceeded RunState = "succeeded"
	RunSkipped   RunState = "skipped"
	RunWaived    RunState = "waived"
)

// Done says whether a gate counts the run.
func (s RunState) Done() bool { return s == RunSucceeded || s == RunSkipped || s == RunWaived }

// Run is the derived state of one processor on one date.
type Run struct {
	State     RunState
	Attempt   int           // the attempt that is in flight, or the next one to make
	Failures  int           // attempts that ended without success
	DueAt     time.Time     // RunRetrying: when the next attempt may start
	Since     time.Time     // RunInFlight: when the attempt was dispatched
	Within    time.Duration // RunInFlight: how long the attempt may take
	Accepted  bool          // RunInFlight: the target took the work and will report
	LastError string
	Retryable bool // RunExhausted: whether the last failure was of the kind that may be retried
}

// attempt is what the facts say of one attempt.
type attempt struct {
	succeeded, retried, accepted, fatal bool
	failed, dispatched                  *Value
}

// look gathers the facts of attempt n.
func look(facts []Fact, n int, proc *Processor) attempt {
	var a attempt
	for i := range facts {
		f := &facts[i]
		if f.Attempt != n {
			continue
		}
		switch f.Kind {
		case Succeeded, ReportedSkip:
			a.succeeded = true
		case Rejected:
			a.failed, a.fatal = &f.Value, true
		case Failed:
			if !a.fatal {
				a.failed = &f.Value
			}
		case Partial:
			if proc.AcceptPartial {
				a.succeeded = true
			} else if a.failed == nil {
				a.failed = partial(f.Value)
			}
		case Dispatched:
			a.dispatched = &f.Value
		case Accepted:
			a.accepted = true
		case Retried:
			a.retried = true
		case Skipped, Waived, Triggered, Complete, CheckPassed, CheckFailed:
		}
	}
	return a
}

// Run derives the state of a processor. seed makes the jitter of one backfill differ from another's.
func (r *Record) Run(seed string, phase *Phase, proc *Processor) Run {
	facts := r.runs[Ref{phase.ID, proc.Name}]
	run := Run{State: RunPending, Attempt: 1}
	newest := 0
	for i := range facts {
		newest = max(newest, facts[i].Attempt)
	}
	granted, failedAt, rejected, waiting := 0, time.Time{}, false, false
	for n := 1; n <= newest; n++ {
		a := look(facts, n, proc)
		if a.succeeded {
			return Run{State: RunSucceeded, Attempt: n, Failures: run.Failures, LastError: run.LastError}
		}
		if a.retried {
			granted = n
		}
		if a.failed != nil {
			run.Failures++
			run.Attempt, run.LastError = n+1, a.failed.Message
			failedAt, rejected, waiting = a.failed.At, a.fatal, false
		} else if a.dispatched != nil {
			run.Attempt, run.Since, run.Within, run.Accepted, waiting = n, a.dispatched.At, max(proc.Timeout, a.dispatched.Within), a.accepted, true
		}
	}
	switch last := run.Attempt - 1; {
	case find(facts, 0, Skipped) >= 0:
		run.State = RunSkipped
	case find(facts, 0, Waived) >= 0:
		run.State = RunWaived
	case waiting:
		run.State = RunInFlight
	case last == 0:
		run.State = RunPending
	case granted < last && (rejected || last >= granted+proc.Attempts):
		run.State, run.Retryable = RunExhausted, !rejected
	default:
		run.State, run.DueAt = RunRetrying, failedAt
		if granted < last {
			run.DueAt = failedAt.Add(proc.Backoff.Delay(jitterKey(seed, r.Date, phase.ID, proc.Name, last), last-granted))
		}
	}
	return run
}

// partial is the failure that a partial success is where the pipeline does not accept one.
func partial(v Value) *Value {
	if v.Message == "" {
		v.Message = "reported partial, which the pipeline does not accept for this processor"
	}
	return &v
}

// Delay is how long to wait after the n-th failure: full jitter after "Exponential Backoff And Jitter"
// (AWS Architecture Blog, 2015), with the randomness taken from u so that everybody computes the same.
func (b Backoff) Delay(u float64, n int) time.Duration {
	ceiling := float64(b.Initial) * math.Pow(2, float64(n-1))
	return time.Duration(u * min(ceiling, float64(b.Max)))
}

// jitterKey spreads keys evenly over [0,1).
func jitterKey(seed string, d Date, phase, processor string, n int) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(seed + "\x00" + phase + "\x00" + processor))
	_, _ = h.Write([]byte{byte(d), byte(d >> 8), byte(d >> 16), byte(n)})
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd // the finalizer of MurmurHash3, as FNV's low bits alone are uneven
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}
