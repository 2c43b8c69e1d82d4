package backfill

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
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
	answered  map[RunKey]time.Time // calls whose outcome is not on record yet, and when they were answered
	backlog   int                  // how many of them there may be
}

// tenant is one backfill in the scheduler.
type tenant struct {
	id       string
	pipeline string
	paused   bool
	lanes    []*lane // later phases first: finishing a date beats starting another
	inFlight int
}

type lane struct {
	Lane
	maxDates int
	ramp     Ramp
	calm     int
	window   window
	inFlight int
	active   map[Date]int // dates in flight, with the number of their jobs queued or running
	waiting  dateHeap
	parked   map[Date][]*item // jobs of dates that are not active
	ready    map[string]*jobHeap
	delayed  jobHeap // throttled: ordered by when they may go
}

type item struct {
	Job
	seq       int
	notBefore time.Time
}

type ticket struct {
	lane    *lane
	tenant  *tenant
	attempt int
	limiter *bucket // nil for none, and for all but one processor of a call
	sentAt  time.Time
	date    Date
}

// NewScheduler is an empty scheduler. It admits nothing while more than backlog answers wait to be recorded,
// so that work does not pile up between the parts of the system; 0 is no such limit.
func NewScheduler(backlog int) *Scheduler {
	if backlog <= 0 {
		backlog = unlimited
	}
	return &Scheduler{
		limiters: map[string]*bucket{}, running: map[RunKey]*ticket{}, queued: map[RunKey]bool{}, answered: map[RunKey]time.Time{}, backlog: backlog,
	}
}

// unlimited stands for a limit that the pipeline does not set.
const unlimited = 1 << 20

// Add makes room for a backfill. Limiters belong to the pipeline: backfills of one pipeline share them.
func (s *Scheduler) Add(id string, p *Pipeline, limits map[string]Limits) {
	s.Remove(id)
	t := &tenant{id: id, pipeline: p.Name}
	for name, l := range p.Limiters {
		if key := p.Name + "/" + name; s.limiters[key] == nil {
			s.limiters[key] = newBucket(l)
		} else {
			s.limiters[key].Limiter = l
		}
	}
	for i := len(p.Phases) - 1; i >= 0; i-- {
		ph := &p.Phases[i]
		t.lanes = append(t.lanes, &lane{
			Lane:     Lane{id, ph.ID},
			maxDates: lower(ph.MaxDates, limits[ph.ID].MaxDates),
			window:   newWindow(lower(ph.MaxProcessors, limits[ph.ID].MaxProcessors)),
			ramp:     ph.Ramp, active: map[Date]int{}, parked: map[Date][]*item{}, ready: map[string]*jobHeap{},
		})
	}
	s.backfills = append(s.backfills, t)
}

func lower(limit, request int) int {
	if limit <= 0 {
		limit = unlimited
	}
	if request > 0 {
		limit = min(limit, request)
	}
	return limit
}

// Remove forgets a backfill, what it queued and what it has in flight.
func (s *Scheduler) Remove(id string) {
	s.backfills = slices.DeleteFunc(s.backfills, func(t *tenant) bool { return t.id == id })
	for k, t := range s.running {
		if k.Backfill == id {
			delete(s.running, k)
			if t.limiter != nil {
				t.limiter.inFlight--
			}
		}
	}
	maps.DeleteFunc(s.queued, func(k RunKey, _ bool) bool { return k.Backfill == id })
	maps.DeleteFunc(s.answered, func(k RunKey, _ time.Time) bool { return k.Backfill == id })
}

// Pause holds back or lets go the admission of a backfill.
func (s *Scheduler) Pause(id string, paused bool) {
	if t := s.tenant(id); t != nil {
		t.paused = paused
	}
}

// InFlight counts the runs of a backfill that were admitted and have not ended.
func (s *Scheduler) InFlight(id string) int {
	if t := s.tenant(id); t != nil {
		return t.inFlight
	}
	return 0
}

// Quiet says that a backfill has nothing queued and nothing in flight.
func (s *Scheduler) Quiet(id string) bool {
	t := s.tenant(id)
	if t == nil {
		return true
	}
	for _, l := range t.lanes {
		if len(l.active) > 0 || len(l.waiting) > 0 {
			return false
		}
	}
	return true
}

// Running says whether a run is in flight here, and Known whether it is queued or in flight.
func (s *Scheduler) Running(k RunKey) bool { return s.running[k] != nil }

// Known says whether a run is queued or in flight.
func (s *Scheduler) Known(k RunKey) bool { return s.queued[k] || s.running[k] != nil }

// Offer queues a job, less those of its processors that are queued or in flight already.
func (s *Scheduler) Offer(j Job) {
	l := s.lane(j.Lane)
	if l == nil {
		return
	}
	fresh := j
	fresh.Processors, fresh.Attempts = nil, nil
	for i, p := range j.Processors {
		if k := (RunKey{j.Lane, j.Date, p}); !s.Known(k) {
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

func (l *lane) push(it *item) {
	q := l.ready[it.Limiter]
	if q == nil {
		q = &jobHeap{}
		l.ready[it.Limiter] = q
	}
	heap.Push(q, it)
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
	if t.paused {
		return Job{}, false
	}
	for _, l := range t.lanes {
		l.undelay(now)
		l.promote()
		if it := s.pick(t, l, now); it != nil {
			s.start(t, l, it, now)
			return it.Job, true
		}
	}
	return Job{}, false
}

// promote lets waiting dates in, oldest first, while there is room.
func (l *lane) promote() {
	for len(l.waiting) > 0 && len(l.active) < l.dateLimit() {
		d := heap.Pop(&l.waiting).(Date)
		for _, it := range l.parked[d] {
			l.active[d]++
			l.push(it)
		}
		delete(l.parked, d)
	}
}

func (l *lane) dateLimit() int {
	if l.ramp.Start <= 0 {
		return l.maxDates
	}
	return min(l.maxDates, l.ramp.Start+l.ramp.Step*(l.calm/max(1, l.ramp.Every)))
}

func (l *lane) undelay(now time.Time) {
	for len(l.delayed) > 0 && !l.delayed[0].notBefore.After(now) {
		it := heap.Pop(&l.delayed).(*item)
		it.notBefore = time.Time{}
		l.push(it)
	}
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

// fits says whether the window has room; a call for more processors than the window goes alone.
func (l *lane) fits(it *item) bool {
	return l.inFlight == 0 || l.inFlight+len(it.Processors) <= l.window.limit()
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

// Occupy counts a run that was admitted before this scheduler existed and is still in flight.
func (s *Scheduler) Occupy(k RunKey, attempt int, now time.Time) {
	t, l := s.tenant(k.Backfill), s.lane(k.Lane)
	if t == nil || l == nil || s.Known(k) {
		return
	}
	if _, ok := l.active[k.Date]; !ok {
		for _, it := range l.parked[k.Date] {
			l.active[k.Date]++
			l.push(it)
		}
		delete(l.parked, k.Date)
		l.waiting = slices.DeleteFunc(l.waiting, func(d Date) bool { return d == k.Date })
		heap.Init(&l.waiting)
	}
	s.running[k] = &ticket{lane: l, tenant: t, attempt: attempt, sentAt: now, date: k.Date}
	l.active[k.Date]++
	l.inFlight++
	t.inFlight++
}

// Returned frees the limiter's slot once the call has been answered, though the run goes on elsewhere.
func (s *Scheduler) Returned(k RunKey) {
	if t := s.running[k]; t != nil && t.limiter != nil {
		t.limiter.inFlight--
		t.limiter = nil
	}
}

// patience is how long an answer may wait to be recorded before it is not waited for any more: the news may
// have gone to another instance.
const patience = 5 * time.Second

// upToDate says whether the record keeps up with the answers.
func (s *Scheduler) upToDate(now time.Time) bool {
	if len(s.answered) < s.backlog {
		return true
	}
	maps.DeleteFunc(s.answered, func(_ RunKey, at time.Time) bool { return now.Sub(at) > patience })
	return len(s.answered) < s.backlog
}

// Answered ends a run's call for admission; that its outcome is on record is for Recorded to say.
func (s *Scheduler) Answered(k RunKey, a Answer, reason string, now time.Time) {
	if s.Finish(k, a, reason, now) {
		s.answered[k] = now
	}
}

// Recorded says that the outcome of a run is on record.
func (s *Scheduler) Recorded(k RunKey) { delete(s.answered, k) }

// Ended is Finish for news of one attempt, which changes nothing when another attempt is in flight by now.
func (s *Scheduler) Ended(k RunKey, attempt int, a Answer, now time.Time) {
	if t := s.running[k]; t != nil && t.attempt == attempt {
		s.Finish(k, a, "", now)
	}
}

// Finish ends a run that was in flight; one that is not is ignored.
func (s *Scheduler) Finish(k RunKey, a Answer, reason string, now time.Time) bool {
	t := s.running[k]
	if t == nil {
		return false
	}
	s.Returned(k)
	delete(s.running, k)
	t.tenant.inFlight--
	l := t.lane
	l.inFlight--
	s.learn(l, a, reason, t.sentAt, now)
	l.leave(t.date)
	return true
}

func (l *lane) leave(d Date) {
	if l.active[d]--; l.active[d] <= 0 {
		delete(l.active, d)
	}
}

// learn moves the adaptive window.
func (s *Scheduler) learn(l *lane, a Answer, reason string, sentAt, now time.Time) {
	changed := false
	switch a {
	case Calm:
		l.calm++
		changed = l.window.grow()
		reason = "calm"
	case Overloaded:
		changed = l.window.halve(sentAt, now)
	case Neutral:
	}
	if changed {
		s.changes = append(s.changes, WindowChange{l.Lane, l.window.limit(), reason})
	}
}

// Throttled puts a job back that was turned away with 429 or 503: it goes again at the given time, and its
// limiter, when it has one, rests until then. It does not count as an attempt.
func (s *Scheduler) Throttled(j Job, retryAt time.Time, reason string, now time.Time) {
	if len(j.Processors) > 0 {
		if t := s.running[RunKey{j.Lane, j.Date, j.Processors[0]}]; t != nil {
			if t.limiter != nil && t.limiter.pausedUntil.Before(retryAt) {
				t.limiter.pausedUntil = retryAt
			}
			s.learn(t.lane, Overloaded, reason, t.sentAt, now)
		}
	}
	s.PutBack(j, retryAt, now)
}

// PutBack queues a job again that was admitted but not done, to go at the given time.
func (s *Scheduler) PutBack(j Job, at, now time.Time) {
	l := s.lane(j.Lane)
	if l == nil || len(j.Processors) == 0 || s.queued[RunKey{j.Lane, j.Date, j.Processors[0]}] {
		return
	}
	l.active[j.Date]++ // stays active while it waits
	for _, p := range j.Processors {
		k := RunKey{j.Lane, j.Date, p}
		s.Finish(k, Neutral, "", now)
		s.queued[k] = true
	}
	s.seq++
	heap.Push(&l.delayed, &item{Job: j, seq: s.seq, notBefore: at})
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

func (s *Scheduler) tenant(id string) *tenant {
	i := slices.IndexFunc(s.backfills, func(t *tenant) bool { return t.id == id })
	if i < 0 {
		return nil
	}
	return s.backfills[i]
}

func (s *Scheduler) lane(k Lane) *lane {
	if t := s.tenant(k.Backfill); t != nil {
		if i := slices.IndexFunc(t.lanes, func(l *lane) bool { return l.Phase == k.Phase }); i >= 0 {
			return t.lanes[i]
		}
	}
	return nil
}

func (it *item) before(o *item) bool {
	return cmp.Or(it.notBefore.Compare(o.notBefore), cmp.Compare(it.Date, o.Date), cmp.Compare(it.seq, o.seq)) < 0
}

type jobHeap []*item

func (h jobHeap) Len() int           { return len(h) }
func (h jobHeap) Less(i, j int) bool { return h[i].before(h[j]) }
func (h jobHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *jobHeap) Push(x any)        { *h = append(*h, x.(*item)) }
func (h *jobHeap) Pop() any {
	old := *h
	it := old[len(old)-1]
	*h = old[:len(old)-1]
	return it
}

type dateHeap []Date

func (h dateHeap) Len() int           { return len(h) }
func (h dateHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h dateHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dateHeap) Push(x any)        { *h = append(*h, x.(Date)) }
func (h *dateHeap) Pop() any {
	old := *h
	d := old[len(old)-1]
	*h = old[:len(old)-1]
	return d
}
