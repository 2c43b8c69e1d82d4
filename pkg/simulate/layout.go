package simulate

import (
	"math"
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
)

// layout numbers the phases and processors of a pipeline, so that what is known of them lies in slices.
type layout struct {
	scope      *backfill.Scope
	phases     map[string]int
	byRef      map[backfill.Ref]int
	refs       []backfill.Ref
	processors []*backfill.Processor
	phaseOf    []int
	spreads    []Spread
	sources    []int  // the processor of an earlier phase whose end starts this one, -1 for none
	feeds      []int  // the other way round
	needed     []bool // another processor waits for this one by name
	procs      int
	limits     []int // processors at once in each phase, 0 for no limit
}

func newLayout(b *backfill.Backfill, p *backfill.Pipeline, w *World) *layout {
	l := &layout{scope: backfill.NewScope(b, p), phases: map[string]int{}, byRef: map[backfill.Ref]int{}}
	for i := range p.Phases {
		ph := &p.Phases[i]
		l.phases[ph.ID] = i
		limit := ph.MaxProcessors
		if asked := b.Request.Limits[ph.ID].MaxProcessors; asked > 0 && (limit == 0 || asked < limit) {
			limit = asked
		}
		if ph.Trigger.HTTP == nil {
			limit = 0 // the platform starts it by itself, and nobody can hold it back
		}
		l.limits = append(l.limits, limit)
		for j := range ph.Processors {
			ref := backfill.Ref{Phase: ph.ID, Processor: ph.Processors[j].Name}
			l.byRef[ref] = len(l.refs)
			l.refs = append(l.refs, ref)
			l.processors = append(l.processors, &ph.Processors[j])
			l.phaseOf = append(l.phaseOf, i)
			l.spreads = append(l.spreads, w.Durations[ref])
			l.needed = append(l.needed, p.Needed(ref))
		}
	}
	l.procs = len(l.refs)
	l.sources, l.feeds = make([]int, l.procs), make([]int, l.procs)
	for i := range l.refs {
		l.sources[i], l.feeds[i] = -1, -1
	}
	for i, ref := range l.refs {
		ph := &p.Phases[l.phaseOf[i]]
		if src, ok := ph.OnTimeout.Source(ref.Processor); ok && ph.Trigger.HTTP == nil {
			l.sources[i] = l.byRef[src]
			l.feeds[l.byRef[src]] = i
		}
	}
	return l
}

func (l *layout) proc(phase, processor string) int {
	return l.byRef[backfill.Ref{Phase: phase, Processor: processor}]
}

// inOrder lists processors of a phase so that each comes after those of the phase that it needs.
func (l *layout) inOrder(ph *backfill.Phase, names []string) []*backfill.Processor {
	out := make([]*backfill.Processor, 0, len(names))
	var add func(name string)
	add = func(name string) {
		if !slices.Contains(names, name) || slices.ContainsFunc(out, func(p *backfill.Processor) bool { return p.Name == name }) {
			return
		}
		p, _ := ph.Processor(name)
		for _, need := range p.Needs {
			if need.Phase == ph.ID {
				add(need.Processor)
			}
		}
		out = append(out, p)
	}
	for _, name := range names {
		add(name)
	}
	return out
}

// progress is what is known of all dates: by date and phase, how many processors are done, and which phases are
// complete and started.
type progress struct {
	*layout
	done     []uint16
	complete []bool
	started  []bool
	left     []uint16 // phases of a date that are not complete
	open     int      // dates with such phases
	prefix   []int
	n        int // phases
}

var _ backfill.Known = (*progress)(nil)

func newProgress(l *layout) progress {
	n, dates := len(l.phases), l.scope.Dates.Len()
	return progress{
		layout: l, done: make([]uint16, n*dates), complete: make([]bool, n*dates), started: make([]bool, n*dates),
		left: make([]uint16, dates), prefix: make([]int, n), n: n,
	}
}

func (s *progress) expect(date int) {
	if s.left[date]++; s.left[date] == 1 {
		s.open++
	}
}

func (s *progress) finish(date, phase int)          { s.done[date*s.n+phase]++ }
func (s *progress) doneIn(date, phase int) int      { return int(s.done[date*s.n+phase]) }
func (s *progress) isComplete(date, phase int) bool { return s.complete[date*s.n+phase] }
func (s *progress) isStarted(date, phase int) bool  { return s.started[date*s.n+phase] }
func (s *progress) start(date, phase int)           { s.started[date*s.n+phase] = true }

func (s *progress) setComplete(date, phase int, applies bool) {
	s.complete[date*s.n+phase], s.started[date*s.n+phase] = true, true
	if applies {
		if s.left[date]--; s.left[date] == 0 {
			s.open--
		}
	}
	for s.prefix[phase] < s.scope.Dates.Len() && s.complete[s.prefix[phase]*s.n+phase] {
		s.prefix[phase]++
	}
}

// Complete implements backfill.Known.
func (s *progress) Complete(c backfill.Cell) (complete, known bool) {
	i, ours := s.scope.Dates.Index(c.Date)
	return ours && s.complete[i*s.n+s.phases[c.Phase]], true
}

// Prefix implements backfill.Known.
func (s *progress) Prefix(phase string) int { return s.prefix[s.phases[phase]] }

// api is an outside API with a token bucket of its own, which answers 429 to what exceeds it.
type api struct {
	backfill.Limiter
	tokens float64
	at     time.Duration
}

// ask takes a token, or says how long to wait for one.
func (a *api) ask(now time.Duration) time.Duration {
	if a.Rate <= 0 {
		return 0
	}
	a.tokens = math.Min(float64(max(1, a.Burst)), a.tokens+(now-a.at).Seconds()*a.Rate)
	a.at = now
	if a.tokens < 1-1e-6 { // whoever waits exactly as long as told has waited long enough
		return time.Duration((1 - a.tokens) / a.Rate * float64(time.Second))
	}
	a.tokens--
	return 0
}
