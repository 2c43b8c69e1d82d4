package backfill

import (
	"cmp"
	"container/heap"
	"time"
)

// Lane is a phase of a backfill: the unit that has limits of its own.
type Lane struct {
	Backfill string
	Phase    string
}

// Job is one call to make: one processor of a date, or all of them where the phase takes one call.
type Job struct {
	Lane
	Date       Date
	Processors []string
	Attempts   []int // of each processor
	Repeat     bool  // the attempts may have been recorded as dispatched already
	Limiter    string
	Chain      int // how many of the phase's processors must still run one after the other once this one is done
}

// RunKey names a processor of a date of a backfill.
type RunKey struct {
	Lane
	Date      Date
	Processor string
}

// Answer is how a call, or a run that was in flight, ended, as far as admission is concerned.
type Answer int

// Calm answers let the window grow; Overloaded ones (429, 503, timeouts) halve it.
const (
	Neutral Answer = iota
	Calm
	Overloaded
)

// WindowChange tells that a lane's adaptive window moved, and why.
type WindowChange struct {
	Lane
	Limit  int
	Reason string
}

// Scheduler admits jobs: oldest date first, within each lane's dates and processors in flight, and within
// the limiters that lanes share. It is a plain state machine without a clock and is not safe for concurrent use.
type Scheduler struct {
	limiters  map[string]*bucket
	backfills []*tenant
	next      int // whose turn it is first
	running   map[RunKey]*ticket
	queued    map[RunKey]bool
	seq       int
	changes   []WindowChange
	answered  map[RunKey]unrecorded // calls whose outcome is not on record yet
	backlog   int                   // how many of them there may be
	gather    time.Duration
}

// tenant is one backfill in the scheduler.
type tenant struct {
	id       string
	pipeline string
	paused   bool
	from     time.Time // when admission begins
	lanes    []*lane   // later phases first: finishing a date beats starting another
	inFlight int
}

type item struct {
	Job
	seq       int
	notBefore time.Time
	last      bool // of the lane's last dates: the longest chain goes first
}

type ticket struct {
	lane    *lane
	tenant  *tenant
	attempt int
	limiter *bucket // nil for none, and for all but one processor of a call
	sentAt  time.Time
	date    Date
}

// unrecorded is an attempt that was answered and whose outcome is still on its way to the record.
type unrecorded struct {
	attempt int
	at      time.Time
}

// NewScheduler is an empty scheduler. It admits nothing while more than backlog answers wait to be recorded,
// so that work does not pile up between the parts of the system; 0 is no such limit. A backfill's first jobs are
// gathered for a moment before any is admitted, as they come in no order and the oldest date is to go first.
func NewScheduler(backlog int, gather time.Duration) *Scheduler {
	if backlog <= 0 {
		backlog = unlimited
	}
	return &Scheduler{
		gather:   gather,
		limiters: map[string]*bucket{}, running: map[RunKey]*ticket{}, queued: map[RunKey]bool{}, answered: map[RunKey]unrecorded{}, backlog: backlog,
	}
}

// Running says whether a run is in flight here, and Known whether it is queued or in flight.
func (s *Scheduler) Running(k RunKey) bool { return s.running[k] != nil }

// Known says whether a run is queued or in flight.
func (s *Scheduler) Known(k RunKey) bool { return s.queued[k] || s.running[k] != nil }

// Offer queues a job, less those of its processors that are queued or in flight already, and those whose attempt was
// answered: what is known of them has not caught up.
func (s *Scheduler) Offer(j Job) {
	l := s.lane(j.Lane)
	if l == nil {
		return
	}
	fresh := j
	fresh.Processors, fresh.Attempts = nil, nil
	for i, p := range j.Processors {
		k := RunKey{j.Lane, j.Date, p}
		if u, answered := s.answered[k]; !s.Known(k) && (!answered || u.attempt != j.Attempts[i]) {
			s.queued[k] = true
			fresh.Processors, fresh.Attempts = append(fresh.Processors, p), append(fresh.Attempts, j.Attempts[i])
		}
	}
	if len(fresh.Processors) == 0 {
		return
	}
	s.seq++
	it := &item{Job: fresh, seq: s.seq}
	if _, ok := l.active[j.Date]; ok {
		l.active[j.Date]++
		l.push(it)
		return
	}
	if len(l.parked[j.Date]) == 0 {
		heap.Push(&l.waiting, j.Date)
	}
	l.parked[j.Date] = append(l.parked[j.Date], it)
}

// Admit takes the jobs that may go now. Backfills take turns.
func (s *Scheduler) Admit(now time.Time) []Job {
	var out []Job
	for again := s.upToDate(now); again; {
		again = false
		for i := range s.backfills {
			t := s.backfills[(s.next+i)%len(s.backfills)]
			if j, ok := s.admitOne(t, now); ok {
				out, again = append(out, j), true
			}
		}
		s.next++
	}
	return out
}

func (s *Scheduler) admitOne(t *tenant, now time.Time) (Job, bool) {
	if t.paused || !s.gathered(t, now) {
		return Job{}, false
	}
	for i, l := range t.lanes {
		l.undelay(now)
		l.promote()
		l.lastDates(t.lanes[i+1:])
		if it := s.pick(t, l, now); it != nil {
			s.start(t, l, it, now)
			return it.Job, true
		}
	}
	return Job{}, false
}

// gathered says whether a backfill's first jobs have had their time to come together.
func (s *Scheduler) gathered(t *tenant, now time.Time) bool {
	if t.from.IsZero() && t.offered() {
		t.from = now.Add(s.gather)
	}
	return !t.from.IsZero() && !now.Before(t.from)
}

func (s *Scheduler) pick(t *tenant, l *lane, now time.Time) *item {
	var best *jobHeap
	for name, q := range l.ready {
		if q.Len() == 0 || (best != nil && !(*q)[0].before((*best)[0])) || !l.fits((*q)[0]) {
			continue
		}
		if b := s.bucket(t, name); b != nil {
			if at, ever := b.readyAt(now); !ever || at.After(now) {
				continue
			}
		}
		best = q
	}
	if best == nil {
		return nil
	}
	return heap.Pop(best).(*item)
}

func (s *Scheduler) bucket(t *tenant, name string) *bucket {
	if name == "" {
		return nil
	}
	return s.limiters[t.pipeline+"/"+name]
}

func (s *Scheduler) start(t *tenant, l *lane, it *item, now time.Time) {
	b := s.bucket(t, it.Limiter)
	if b != nil {
		b.take()
	}
	for i, p := range it.Processors {
		k := RunKey{it.Lane, it.Date, p}
		delete(s.queued, k)
		tk := &ticket{lane: l, tenant: t, attempt: it.Attempts[i], sentAt: now, date: it.Date}
		if i == 0 {
			tk.limiter = b
		} else {
			l.active[it.Date]++ // the job becomes as many runs
		}
		s.running[k] = tk
	}
	l.inFlight += len(it.Processors)
	t.inFlight += len(it.Processors)
}

// Next is when Admit may have something to give without anything else happening; zero for never.
func (s *Scheduler) Next(now time.Time) time.Time {
	var at time.Time
	if len(s.answered) >= s.backlog {
		at = now.Add(patience)
	}
	for _, t := range s.backfills {
		if t.paused {
			continue
		}
		if t.from.After(now) {
			at = Sooner(at, t.from)
			continue
		}
		for _, l := range t.lanes {
			if len(l.delayed) > 0 {
				at = Sooner(at, l.delayed[0].notBefore)
			}
			for name, q := range l.ready {
				if b := s.bucket(t, name); b != nil && q.Len() > 0 && l.fits((*q)[0]) {
					if ready, ever := b.readyAt(now); ever {
						at = Sooner(at, ready)
					}
				}
			}
		}
	}
	return at
}

// Changes hands over the window changes since the last call.
func (s *Scheduler) Changes() []WindowChange {
	out := s.changes
	s.changes = nil
	return out
}

func (it *item) before(o *item) bool {
	if it.last && it.Chain != o.Chain {
		return it.Chain > o.Chain
	}
	return cmp.Or(it.notBefore.Compare(o.notBefore), cmp.Compare(it.Date, o.Date), cmp.Compare(it.seq, o.seq)) < 0
}
