package simulate

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"time"
)

// Prediction is what many runs of one setting amount to.
type Prediction struct {
	P10, P50, P90 time.Duration // of the makespan
	Seeds         int
	Typical       Outcome // the run with the median makespan, with its critical path
	Bounds        []Bound // of that run
}

// Predict simulates a setting under several seeds, at least one, on all cores.
func Predict(s Setting, seed uint64, seeds int) Prediction {
	type result struct {
		seed uint64
		Outcome
	}
	results := make([]result, seeds)
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(seeds, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range next {
				results[i] = result{seed + uint64(i), Run(s, seed+uint64(i))}
			}
		})
	}
	for i := range seeds {
		next <- i
	}
	close(next)
	wg.Wait()
	slices.SortStableFunc(results, func(a, b result) int { return cmp.Compare(a.Makespan, b.Makespan) })
	at := func(q float64) result { return results[int(q*float64(seeds-1)+0.5)] }
	median := at(0.5)
	return Prediction{
		P10: at(0.1).Makespan, P50: median.Makespan, P90: at(0.9).Makespan, Seeds: seeds, Typical: median.Outcome, Bounds: Bounds(s, median.seed),
	}
}

// Use is how much of a limit a run uses, on average over the makespan.
type Use struct {
	Name  string
	Limit float64
	Share float64
}

// Uses lists the limits of a run with what it makes of them, the most used first.
func (o *Outcome) Uses() []Use {
	var out []Use
	seconds := max(o.Makespan.Seconds(), 1e-9)
	for _, ph := range o.Phases {
		if ph.Limit > 0 && ph.Calls > 0 {
			limit := float64(ph.Limit)
			out = append(out, Use{ph.ID + ".max_processors", limit, ph.Busy.Seconds() / limit / seconds})
		}
	}
	for name, l := range o.Limiters {
		if l.Rate > 0 {
			out = append(out, Use{name + ".rate", l.Rate, float64(l.Calls) / l.Rate / seconds})
		}
		if l.InFlight > 0 {
			limit := float64(l.InFlight)
			out = append(out, Use{name + ".in_flight", limit, l.Busy.Seconds() / limit / seconds})
		}
	}
	slices.SortFunc(out, func(a, b Use) int { return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Name, b.Name)) })
	return out
}
