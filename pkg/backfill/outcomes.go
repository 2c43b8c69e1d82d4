package backfill

import (
	"container/heap"
	"maps"
	"slices"
	"time"
)

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
	maps.DeleteFunc(s.answered, func(_ RunKey, u unrecorded) bool { return now.Sub(u.at) > patience })
	return len(s.answered) < s.backlog
}

// Answered ends a run's call for admission; that its outcome is on record is for Recorded to say.
func (s *Scheduler) Answered(k RunKey, a Answer, reason string, now time.Time) {
	t := s.running[k]
	if s.Finish(k, a, reason, now) {
		s.answered[k] = unrecorded{t.attempt, now}
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
	before := l.window.limit()
	switch a {
	case Calm:
		l.calm++
		l.window.grow()
		reason = "calm"
	case Overloaded:
		l.window.halve(sentAt, now)
	case Neutral:
	}
	s.moved(l, before, reason)
}

// moved notes that a window may have changed.
func (s *Scheduler) moved(l *lane, before int, reason string) {
	if limit := l.window.limit(); limit != before {
		s.changes = append(s.changes, WindowChange{l.Lane, limit, reason})
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
