// Package simulate runs a backfill in virtual time: the decisions are those of package backfill, as they are in
// production, and the processors are durations drawn from what is known about them. It predicts how long a
// backfill takes, what holds it up, and what a change would do. The same seed gives the same run.
package simulate

import (
	"hash/fnv"
	"math"
	"time"

	"sluice.dev/pkg/backfill"
)

// Spread is how long a processor takes: log-normal, with its median in seconds and the standard deviation of
// its logarithm.
type Spread struct {
	Median float64
	Sigma  float64
	Source string // where this is known from
}

// z90 is the 90th percentile of the standard normal distribution.
const z90 = 1.2815515655446004

// FromPercentiles is the log-normal distribution with a median and a 90th percentile.
func FromPercentiles(p50, p90 float64, source string) Spread {
	s := Spread{Median: p50, Source: source}
	if p50 > 0 && p90 > p50 {
		s.Sigma = math.Log(p90/p50) / z90
	}
	return s
}

// P90 is the 90th percentile in seconds.
func (s Spread) P90() float64 { return s.Median * math.Exp(s.Sigma*z90) }

// World is what lies outside Sluice.
type World struct {
	Durations map[backfill.Ref]Spread
	FailRate  float64 // share of attempts that fail, at some point of their duration, and may be retried
	Throttle  float64 // share of calls answered 429 although the limits were kept
	// Latency is from the end of a run until the next call that follows from it.
	Latency time.Duration
}

// draw is what becomes of one attempt, which depends on nothing but the seed and the attempt itself: runs under
// another order or other limits meet the same luck.
type draw struct {
	took time.Duration
	ok   bool
}

func (w *World) draw(seed uint64, spread Spread, date backfill.Date, proc, attempt int) draw {
	h := mix(seed ^ mix(uint64(uint32(date))<<32|uint64(proc)<<8|uint64(attempt)))
	z := math.Sqrt(-2*math.Log(unit(mix(h+1)))) * math.Cos(2*math.Pi*unit(mix(h+2))) // Box-Muller
	seconds := spread.Median * math.Exp(spread.Sigma*z)
	if unit(mix(h+3)) <= w.FailRate {
		return draw{time.Duration(seconds * unit(mix(h+4)) * float64(time.Second)), false}
	}
	return draw{time.Duration(seconds * float64(time.Second)), true}
}

// Draw says what becomes of an attempt at a processor that has no position in a pipeline: for models of other
// systems in the same world.
func (w *World) Draw(seed uint64, ref backfill.Ref, date backfill.Date, attempt int) (time.Duration, bool) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(ref.Phase + "/" + ref.Processor))
	d := w.draw(seed, w.Durations[ref], date, int(h.Sum32()%(1<<20)), attempt)
	return d.took, d.ok
}

// throttled says whether a call meets a 429 for no reason of ours; tries counts the calls of one attempt.
func (w *World) throttled(seed uint64, date backfill.Date, proc, attempt, tries int) bool {
	return w.Throttle > 0 && unit(mix(seed^mix(uint64(uint32(date))<<32|uint64(proc)<<16|uint64(attempt)<<8|uint64(tries))+7)) <= w.Throttle
}

// mix is SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// unit is a number in (0,1].
func unit(h uint64) float64 { return (float64(h>>11) + 1) / (1 << 53) }
