package simulate

import (
	"cmp"
	"slices"
	"time"

	"sluice.dev/pkg/backfill"
)

// Bound is a time that no schedule can beat: the work that must pass a limit divided by the limit, or the longest
// chain of runs that wait for one another.
type Bound struct {
	Name string
	Time time.Duration
}

// Chain names the bound that comes from dependences alone.
const Chain = "longest chain"

// Bounds lists what bounds the backfill from below under a seed, the largest first. Attempts that fail under the
// seed are work too.
func Bounds(s Setting, seed uint64) []Bound {
	b := &bounder{Setting: s, layout: newLayout(s.Backfill, s.Pipeline, &s.World), seed: seed}
	b.order()
	b.processors = make([]time.Duration, len(s.Pipeline.Phases))
	b.calls, b.held = map[string]int{}, map[string]time.Duration{}
	b.complete = make([]time.Duration, len(s.Records)*len(s.Pipeline.Phases))
	fin, once := make([]time.Duration, b.procs), make([]time.Duration, b.procs)
	for i := range s.Records {
		b.date(i, fin, once)
	}
	return b.list()
}

type bounder struct {
	Setting
	*layout
	seed       uint64
	ordered    []int           // processors, each after what it waits for on the same date
	waits      [][]int         // of each processor, on the same date
	processors []time.Duration // work of each phase that calls
	calls      map[string]int  // of each limiter
	held       map[string]time.Duration
	complete   []time.Duration // by date and phase: when it can be complete at the earliest
	longest    time.Duration
}

// order sorts the processors by what they wait for on the same date. A pipeline has no cycles.
func (b *bounder) order() {
	b.waits = make([][]int, b.procs)
	of := func(phase string) (out []int) {
		for i, r := range b.refs {
			if r.Phase == phase {
				out = append(out, i)
			}
		}
		return out
	}
	for i := range b.refs {
		ph, proc := &b.Pipeline.Phases[b.phaseOf[i]], b.layout.processors[i]
		if b.sources[i] >= 0 {
			b.waits[i] = []int{b.sources[i]}
			continue
		}
		if !ph.GateNeeds {
			for _, after := range ph.After {
				b.waits[i] = append(b.waits[i], of(after)...)
			}
		}
		for _, need := range proc.Needs {
			b.waits[i] = append(b.waits[i], b.byRef[need])
		}
		for _, w := range proc.Windows {
			if w.Phase != ph.ID {
				b.waits[i] = append(b.waits[i], of(w.Phase)...)
			}
		}
	}
	seen := make([]bool, b.procs)
	var visit func(i int)
	visit = func(i int) {
		if seen[i] {
			return
		}
		seen[i] = true
		for _, j := range b.waits[i] {
			visit(j)
		}
		b.ordered = append(b.ordered, i)
	}
	for i := range b.refs {
		visit(i)
	}
}

// date adds a date's work, and finds how early each of its processors can end well, and once: one call for a whole
// phase runs what comes after a processor even when that has failed.
func (b *bounder) date(i int, fin, once []time.Duration) {
	rec := &b.Records[i]
	for _, at := range b.ordered {
		p := b.phaseOf[at]
		ph, proc := &b.Pipeline.Phases[p], b.layout.processors[at]
		begin := time.Duration(0)
		for _, j := range b.waits[at] {
			if b.phaseOf[j] == p && ph.Trigger.HTTP != nil && ph.Trigger.HTTP.PerPhase {
				begin = max(begin, once[j])
			} else {
				begin = max(begin, fin[j])
			}
		}
		for _, w := range proc.Windows {
			begin = max(begin, b.window(i, w, ph.ID))
		}
		fin[at], once[at] = begin, begin
		if b.scope.Selected(ph.ID) && ph.AppliesTo(rec.Season) && !rec.Run(b.scope.ID, ph, proc).State.Done() {
			first, all := b.work(rec.Date, at, ph)
			fin[at] += all
			once[at] += first
		}
		cell := i*len(b.Pipeline.Phases) + p
		b.complete[cell] = max(b.complete[cell], fin[at])
		b.longest = max(b.longest, fin[at])
	}
}

// work is the first and all attempts of a run, which it also adds to the limits that they pass.
func (b *bounder) work(d backfill.Date, at int, ph *backfill.Phase) (first, all time.Duration) {
	for n := 1; n <= b.layout.processors[at].Attempts; n++ {
		took := b.World.draw(b.seed, b.spreads[at], d, at, n)
		all += took.took
		if n == 1 {
			first = all
		}
		limiter, held := b.layout.processors[at].Limiter, took.took
		if ph.Trigger.HTTP == nil {
			limiter = ""
			if src := b.sources[at]; src >= 0 && n > 1 {
				limiter, held = b.layout.processors[src].Limiter, b.World.draw(b.seed, b.spreads[src], d, src, 100+n).took
				all += held
			}
		} else if b.processors[b.phaseOf[at]] += took.took; ph.Trigger.HTTP.Async {
			held = 0
		}
		if ph.Trigger.HTTP != nil && ph.Trigger.HTTP.PerPhase && &ph.Processors[0] != b.layout.processors[at] {
			limiter = "" // one call for all
		}
		if limiter != "" {
			b.calls[limiter]++
			b.held[limiter] += held
		}
		if took.ok {
			break
		}
	}
	return first, all
}

// window is when the part of a window that other dates make up can be complete at the earliest.
func (b *bounder) window(i int, w backfill.Window, phase string) time.Duration {
	parts := b.scope.Window(w, phase, b.Records[i].Date)
	if len(parts) == 0 {
		return 0
	}
	from, _ := b.scope.Dates.Index(parts[0].Date)
	var at time.Duration
	for j := from; j < i; j++ {
		at = max(at, b.complete[j*len(b.Pipeline.Phases)+b.phases[w.Phase]])
	}
	return at
}

func (b *bounder) list() []Bound {
	out := []Bound{{Chain, b.longest}}
	for p, work := range b.processors {
		if limit := b.limits[p]; limit > 0 && work > 0 {
			out = append(out, Bound{b.Pipeline.Phases[p].ID + ".max_processors", work / time.Duration(limit)})
		}
	}
	for name, calls := range b.calls {
		l := b.Pipeline.Limiters[name]
		if l.Rate > 0 {
			out = append(out, Bound{name + ".rate", time.Duration(float64(max(0, calls-max(1, l.Burst))) / l.Rate * float64(time.Second))})
		}
		if l.InFlight > 0 {
			out = append(out, Bound{name + ".in_flight", b.held[name] / time.Duration(l.InFlight)})
		}
	}
	slices.SortFunc(out, func(x, y Bound) int { return cmp.Or(cmp.Compare(y.Time, x.Time), cmp.Compare(x.Name, y.Name)) })
	return out
}
