package backfill

import (
	"maps"
	"slices"
	"time"
)

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

// Limit changes the limits of a backfill. What is in flight above them ends by itself.
func (s *Scheduler) Limit(id string, p *Pipeline, limits map[string]Limits) {
	for i := range p.Phases {
		ph := &p.Phases[i]
		if l := s.lane(Lane{id, ph.ID}); l != nil {
			l.maxDates = lower(ph.MaxDates, limits[ph.ID].MaxDates)
			before := l.window.limit()
			l.window.setCeiling(lower(ph.MaxProcessors, limits[ph.ID].MaxProcessors))
			s.moved(l, before, "a control set the limit")
		}
	}
}

// Press halves the windows of lanes that use something that has become scarce, e.g. the warehouse's slots.
func (s *Scheduler) Press(k Lane, reason string, now time.Time) {
	if l := s.lane(k); l != nil {
		s.learn(l, Overloaded, reason, now, now)
	}
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
	maps.DeleteFunc(s.answered, func(k RunKey, _ unrecorded) bool { return k.Backfill == id })
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

func (t *tenant) offered() bool {
	return slices.ContainsFunc(t.lanes, func(l *lane) bool { return len(l.waiting)+len(l.active) > 0 })
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

// Load is how many runs of a lane are in flight, and how many its window allows.
func (s *Scheduler) Load(k Lane) (inFlight, limit int) {
	if l := s.lane(k); l != nil {
		return l.inFlight, l.window.limit()
	}
	return 0, 0
}
