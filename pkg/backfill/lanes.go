package backfill

import (
	"container/heap"
	"slices"
	"time"
)

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
	last     bool    // no more dates are to come: see lastDates
}

func (l *lane) push(it *item) {
	it.last = l.last
	q := l.ready[it.Limiter]
	if q == nil {
		q = &jobHeap{}
		l.ready[it.Limiter] = q
	}
	heap.Push(q, it)
}

// lastDates notices when the dates in flight are the last ones. Until then the oldest date goes first; from
// then on the longest chain does, so that the end is not one date's chain with nothing beside it.
func (l *lane) lastDates(before []*lane) {
	last := len(l.waiting) == 0 && len(l.active) <= 2*l.window.limit() &&
		!slices.ContainsFunc(before, func(b *lane) bool { return len(b.active)+len(b.waiting) > 0 })
	if last == l.last {
		return
	}
	l.last = last
	for _, q := range l.ready {
		for _, it := range *q {
			it.last = last
		}
		heap.Init(q)
	}
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

// fits says whether the window has room; a call for more processors than the window goes alone.
func (l *lane) fits(it *item) bool {
	return l.inFlight == 0 || l.inFlight+len(it.Processors) <= l.window.limit()
}
