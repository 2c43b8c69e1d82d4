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
	Attempt   int       // the attempt that is in flight, or the next one to make
	Failures  int       // attempts that ended without success
	DueAt     time.Time // RunRetrying: when the next attempt may start
	Since     time.Time // RunInFlight: when the attempt was dispatched
	Accepted  bool      // RunInFlight: the target took the work and will report
	LastError string
	Retryable bool // RunExhausted: whether the last failure was of the kind that may be retried
}

// Run derives the state of a processor. seed makes the jitter of one backfill differ from another's.
func (r *Record) Run(seed string, phase *Phase, proc *Processor) Run {
	key := Key{Phase: phase.ID, Processor: proc.Name}
	newest := r.newest[Ref{phase.ID, proc.Name}]
	run := Run{State: RunPending, Attempt: 1}
	granted, failedAt, rejected, waiting := 0, time.Time{}, false, false
	for n := 0; n <= newest; n++ {
		key.Attempt = n
		if n > 0 && r.succeeded(key, proc) {
			return Run{State: RunSucceeded, Attempt: n, Failures: run.Failures, LastError: run.LastError}
		}
		if r.has(key, Retried) {
			granted = n
		}
		if v, fatal, ok := r.failure(key, proc); ok && n > 0 {
			run.Failures++
			run.Attempt, run.LastError = n+1, v.Message
			failedAt, rejected, waiting = v.At, fatal, false
		} else if v, ok := r.get(key, Dispatched); ok && n > 0 {
			run.Attempt, run.Since, waiting = n, v.At, true
			run.Accepted = r.has(key, Accepted)
		}
	}
	key.Attempt = 0
	switch last := run.Attempt - 1; {
	case r.has(key, Skipped):
		run.State = RunSkipped
	case r.has(key, Waived):
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

func (r *Record) has(k Key, kind Kind) bool {
	k.Kind = kind
	return r.Has(k)
}

func (r *Record) get(k Key, kind Kind) (Value, bool) {
	k.Kind = kind
	return r.Get(k)
}

func (r *Record) succeeded(k Key, proc *Processor) bool {
	return r.has(k, Succeeded) || r.has(k, ReportedSkip) || (proc.AcceptPartial && r.has(k, Partial))
}

func (r *Record) failure(k Key, proc *Processor) (v Value, fatal, ok bool) {
	if v, ok = r.get(k, Rejected); ok {
		return v, true, true
	}
	if v, ok = r.get(k, Failed); ok {
		return v, false, true
	}
	if v, ok = r.get(k, Partial); ok && !proc.AcceptPartial {
		if v.Message == "" {
			v.Message = "reported partial, which the pipeline does not accept for this processor"
		}
		return v, false, true
	}
	return Value{}, false, false
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
	_, _ = h.Write([]byte{byte(d), byte(d >> 8), byte(d >> 16), byte(n)}) //nolint:gosec // only mixing bits
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd // the finalizer of MurmurHash3, as FNV's low bits alone are uneven
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}
