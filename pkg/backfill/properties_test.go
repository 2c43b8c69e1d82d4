package backfill_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice.dev/pkg/backfill"
)

func record(fs ...backfill.Fact) backfill.Record { return backfill.NewRecord(first+5, "", fs...) }

func content(r backfill.Record) map[backfill.Key]backfill.Value {
	out := map[backfill.Key]backfill.Value{}
	for _, f := range r.Facts() {
		out[f.Key] = f.Value
	}
	return out
}

func equal(a, b backfill.Record) bool { return maps.Equal(content(a), content(b)) }

func TestMergeIsCommutativeAssociativeIdempotent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := facts().Draw(t, "a"), facts().Draw(t, "b"), facts().Draw(t, "c")
		if x, y := record(a...).Add(b...), record(b...).Add(a...); !equal(x, y) {
			t.Fatalf("a+b is not b+a:\n%v\n%v", content(x), content(y))
		}
		bc := record(b...).Add(c...)
		if x, y := record(a...).Add(b...).Add(c...), record(a...).Add(bc.Facts()...); !equal(x, y) {
			t.Fatalf("(a+b)+c is not a+(b+c):\n%v\n%v", content(x), content(y))
		}
		if x, y := record(a...), record(a...).Add(a...); !equal(x, y) {
			t.Fatalf("a+a is not a:\n%v\n%v", content(x), content(y))
		}
	})
}

func TestOrderAndDuplicatesOfFactsNeverMatter(t *testing.T) {
	t.Parallel()
	s := backfill.NewScope(days(10, backfill.Request{}), chain())
	rapid.Check(t, func(t *rapid.T) {
		fs := facts().Draw(t, "facts")
		straight := record(fs...)
		mixed := append(slices.Clone(fs), fs[:rapid.IntRange(0, len(fs)).Draw(t, "again")]...)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		rng.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		shuffled := record()
		for len(mixed) > 0 { // one by one and in clumps
			n := 1 + rng.IntN(len(mixed))
			shuffled = shuffled.Add(mixed[:n]...)
			mixed = mixed[n:]
		}
		for _, ph := range s.Phases("") {
			for i := range ph.Processors {
				if a, b := straight.Run("b", ph, &ph.Processors[i]), shuffled.Run("b", ph, &ph.Processors[i]); a != b {
					t.Fatalf("%s/%s: %+v, and in another order %+v", ph.ID, ph.Processors[i].Name, a, b)
				}
			}
		}
	})
}

func TestSuccessIsNeverUndone(t *testing.T) {
	t.Parallel()
	s := backfill.NewScope(days(10, backfill.Request{}), chain())
	rapid.Check(t, func(t *rapid.T) {
		r := record(facts().Draw(t, "before")...)
		ph := s.Phases("")[rapid.IntRange(0, 2).Draw(t, "phase")]
		proc := &ph.Processors[rapid.IntRange(0, len(ph.Processors)-1).Draw(t, "processor")]
		r = r.Add(backfill.Fact{
			Key:   backfill.Key{Phase: ph.ID, Processor: proc.Name, Attempt: rapid.IntRange(1, 4).Draw(t, "attempt"), Kind: backfill.Succeeded},
			Value: backfill.Value{At: epoch},
		})
		after := r.Add(facts().Draw(t, "after")...)
		if got := after.Run("b", ph, proc).State; got != backfill.RunSucceeded {
			t.Fatalf("succeeded became %s", got)
		}
	})
}

func TestStrangersNeverCount(t *testing.T) {
	t.Parallel()
	s := backfill.NewScope(days(10, backfill.Request{}), chain())
	one, _ := s.Pipeline.Phase("one")
	rapid.Check(t, func(t *rapid.T) {
		r := record(facts().Draw(t, "facts")...)
		before := s.Tally(&r, one)
		with := r.Add(backfill.Fact{
			Key:   backfill.Key{Phase: "one", Processor: rapid.StringMatching("x[a-z]{1,5}").Draw(t, "name"), Attempt: 1, Kind: backfill.Succeeded},
			Value: backfill.Value{At: epoch},
		})
		if after := s.Tally(&with, one); after != before || after.Total != 2 {
			t.Fatalf("a stranger changed %+v to %+v", before, after)
		}
	})
}

func TestGateNeverOpensEarly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		req := backfill.Request{
			Order:         rapid.SampledFrom([]backfill.Order{backfill.OrderOverlap, backfill.OrderPhaseByPhase, backfill.OrderDateByDate}).Draw(t, "order"),
			ValidateFirst: rapid.IntRange(0, 3).Draw(t, "validate"),
		}
		s := backfill.NewScope(days(8, req), chain())
		recs := map[backfill.Date]*backfill.Record{}
		for _, p := range s.Dates.All() {
			r := backfill.NewRecord(p.Date, "", facts().Draw(t, "facts")...)
			if rapid.Bool().Draw(t, "finished") { // otherwise most gates stay shut for want of facts
				r = r.Add(all(s, backfill.Succeeded)...)
			}
			recs[p.Date] = &r
		}
		known := backfill.KnownFunc(func(c backfill.Cell) (bool, bool) { return s.Complete(recs[c.Date], c.Phase), true })
		done := func(d backfill.Date, phase, proc string) bool {
			ph, _ := s.Pipeline.Phase(phase)
			pr, _ := ph.Processor(proc)
			return recs[d].Run("b", ph, pr).State.Done()
		}
		for d, r := range recs {
			for _, ph := range s.Phases("") {
				for _, name := range s.Open(r, ph, known).Start {
					for _, need := range needs(s, d, ph.ID, name) {
						if !done(need.d, need.phase, need.proc) {
							t.Fatalf("order %s: %s %s/%s opened before %s %s/%s was done", req.Order, d, ph.ID, name, need.d, need.phase, need.proc)
						}
					}
				}
			}
		}
	})
}

type need struct {
	d           backfill.Date
	phase, proc string
}

// needs spells out what each processor of the chain waits for, without using the code under test.
func needs(s *backfill.Scope, d backfill.Date, phase, proc string) []need {
	whole := map[string][]string{"one": {"a", "b"}, "two": {"c", "d"}, "three": {"e"}}
	before := map[string]string{"two": "one", "three": "two"}
	var out []need
	add := func(d backfill.Date, phase string) {
		for _, p := range whole[phase] {
			out = append(out, need{d, phase, p})
		}
	}
	if b := before[phase]; b != "" {
		add(d, b)
	}
	if proc == "d" {
		out = append(out, need{d, "two", "c"})
	}
	if proc == "e" {
		for x := max(first, d-2); x <= d; x++ {
			add(x, "two")
		}
	}
	i := int(d - first)
	n := 0
	switch {
	case s.Order == backfill.OrderDateByDate || i < s.Validate:
		n = i
	case s.Validate > 0:
		n = s.Validate
	}
	if n > 0 {
		for _, ph := range []string{"one", "two", "three"} {
			add(first+backfill.Date(n-1), ph)
		}
	}
	if b := before[phase]; b != "" && s.Order == backfill.OrderPhaseByPhase && i >= s.Validate {
		for x := first; x < first+8; x++ {
			add(x, b)
		}
	}
	return out
}

func all(s *backfill.Scope, kind backfill.Kind) []backfill.Fact {
	var out []backfill.Fact
	for _, ph := range s.Phases("") {
		for _, pr := range ph.Processors {
			out = append(out, backfill.Fact{Key: backfill.Key{Phase: ph.ID, Processor: pr.Name, Attempt: 1, Kind: kind}, Value: backfill.Value{At: epoch}})
		}
	}
	return out
}

// Every shuffling, duplication and delay of the completions of a whole backfill ends in the same state,
// and every date whose gate may open is among the dependents of what opened it.
func TestDependentsMissNobody(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		req := backfill.Request{
			Order:         rapid.SampledFrom([]backfill.Order{backfill.OrderOverlap, backfill.OrderPhaseByPhase, backfill.OrderDateByDate}).Draw(t, "order"),
			ValidateFirst: rapid.IntRange(0, 3).Draw(t, "validate"),
		}
		s := backfill.NewScope(days(6, req), chain())
		recs := map[backfill.Date]backfill.Record{}
		for _, p := range s.Dates.All() {
			recs[p.Date] = backfill.NewRecord(p.Date, "")
		}
		known := prefixed{s, recs}
		open := map[need]bool{}
		look := func(d backfill.Date) {
			r := recs[d]
			for _, ph := range s.Phases("") {
				for _, name := range s.Open(&r, ph, known).Start {
					open[need{d, ph.ID, name}] = true
				}
			}
		}
		for d := range recs {
			look(d)
		}
		runs := 0
		for len(open) > 0 {
			all := slices.Collect(maps.Keys(open))
			slices.SortFunc(all, func(a, b need) int { return int(a.d-b.d)*100 + compare(a.phase+a.proc, b.phase+b.proc) })
			pick := all[rapid.IntRange(0, len(all)-1).Draw(t, "next")]
			delete(open, pick)
			runs++
			r := recs[pick.d].Add(backfill.Fact{Key: backfill.Key{Phase: pick.phase, Processor: pick.proc, Attempt: 1, Kind: backfill.Succeeded}, Value: backfill.Value{At: epoch}})
			recs[pick.d] = r
			look(pick.d)
			if s.Complete(&r, pick.phase) {
				for _, d := range s.Dependents(pick.d, pick.phase, known) {
					look(d)
				}
			}
			for n := range open {
				if r := recs[n.d]; r.Has(backfill.Key{Phase: n.phase, Processor: n.proc, Attempt: 1, Kind: backfill.Succeeded}) {
					delete(open, n)
				}
			}
		}
		if runs != 6*5 {
			t.Fatalf("order %s, validate %d: %d of 30 runs happened: somebody was not looked at", req.Order, req.ValidateFirst, runs)
		}
	})
}

// prefixed knows everything about records, and how many of the first dates are complete.
type prefixed struct {
	s    *backfill.Scope
	recs map[backfill.Date]backfill.Record
}

func (p prefixed) Complete(c backfill.Cell) (complete, known bool) {
	r := p.recs[c.Date]
	return p.s.Complete(&r, c.Phase), true
}

func (p prefixed) Prefix(phase string) int {
	for i, part := range p.s.Dates.All() {
		if done, _ := p.Complete(backfill.Cell{Date: part.Date, Phase: phase}); !done {
			return i
		}
	}
	return p.s.Dates.Len()
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func TestBackoffIsFullJitter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := backfill.Backoff{Initial: time.Second, Max: time.Minute}
		n := rapid.IntRange(1, 60).Draw(t, "n")
		u := rapid.Float64Range(0, 0.999999).Draw(t, "u")
		d := b.Delay(u, n)
		if d < 0 || d > time.Minute || (n < 6 && d > time.Second<<(n-1)) {
			t.Fatalf("attempt %d waits %s", n, d)
		}
	})
}
