package simulate

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice.dev/pkg/backfill"
)

const first = backfill.Date(19700)

// line is phases of one processor each that take exactly a second, called over HTTP.
func line(phases ...string) *backfill.Pipeline {
	p := &backfill.Pipeline{Name: "p", Limiters: map[string]backfill.Limiter{}}
	for i, id := range phases {
		ph := backfill.Phase{ID: id, Trigger: backfill.Trigger{HTTP: &backfill.HTTPTrigger{}}}
		if i > 0 {
			ph.After = []string{phases[i-1]}
		}
		ph.Processors = []backfill.Processor{proc("a")}
		p.Phases = append(p.Phases, ph)
	}
	return p
}

func proc(name string) backfill.Processor {
	return backfill.Processor{Name: name, Timeout: time.Hour, Attempts: 5, Backoff: backfill.Backoff{Initial: time.Second, Max: time.Minute}}
}

// setting is a backfill of n days of a pipeline whose runs all take a second.
func setting(p *backfill.Pipeline, n int, req backfill.Request) Setting {
	parts := make([]backfill.Partition, n)
	s := Setting{Pipeline: p, World: World{Durations: map[backfill.Ref]Spread{}}}
	for i := range parts {
		parts[i].Date = first + backfill.Date(i)
		s.Records = append(s.Records, backfill.NewRecord(parts[i].Date, ""))
	}
	cal := backfill.NewCalendar(parts)
	s.Backfill = &backfill.Backfill{ID: "b", Request: req, Calendar: cal, Dates: cal}
	for i := range p.Phases {
		for _, pr := range p.Phases[i].Processors {
			s.World.Durations[backfill.Ref{Phase: p.Phases[i].ID, Processor: pr.Name}] = Spread{Median: 1}
		}
	}
	return s
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

func TestMakespansThatCanBeComputedByHand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Setting)
		want   float64
		bound  string
	}{
		"nothing limits: one chain":  {func(*Setting) {}, 3, Chain},
		"max_processors":             {func(s *Setting) { s.Pipeline.Phases[1].MaxProcessors = 5 }, 1 + 20 + 1, "two.max_processors"},
		"a request lowers the limit": {func(s *Setting) { s.Backfill.Request.Limits = map[string]backfill.Limits{"two": {MaxProcessors: 2}} }, 52, "two.max_processors"},
		"max_dates":                  {func(s *Setting) { s.Pipeline.Phases[0].MaxDates = 10 }, 10 + 2, Chain},
		"one phase after the other": {func(s *Setting) {
			s.Backfill.Request.Order = backfill.OrderPhaseByPhase
			s.Pipeline.Phases[0].MaxProcessors = 50
		}, 4, Chain},
		"one date after the other": {func(s *Setting) { s.Backfill.Request.Order = backfill.OrderDateByDate }, 300, Chain},
		"ten dates first":          {func(s *Setting) { s.Backfill.Request.ValidateFirst = 10 }, 30 + 3, Chain},
		"a rate":                   {func(s *Setting) { limit(s, backfill.Limiter{Rate: 2, Burst: 4}) }, 48 + 3, "api.rate"},
		"calls in flight":          {func(s *Setting) { limit(s, backfill.Limiter{InFlight: 5}) }, 20 + 2, "api.in_flight"},
		"dates that wait for the day before": {func(s *Setting) {
			s.Pipeline.Phases[2].Processors[0].Windows = []backfill.Window{{Phase: "three", Days: 1}}
		}, 102, Chain},
		"latency of every step": {func(s *Setting) { s.World.Latency = time.Second }, 6, Chain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setting(line("one", "two", "three"), 100, backfill.Request{})
			c.change(&s)
			s.Trace = true
			out := Run(s, 1)
			if d := out.Makespan - seconds(c.want); d < -time.Millisecond || d > time.Millisecond {
				t.Errorf("takes %s, not %v s", out.Makespan, c.want)
			}
			if !out.Completed || out.Attempts != 300 || out.Retries+out.Throttles+out.Incomplete+out.Exhausted > 0 {
				t.Errorf("%+v", out)
			}
			b := Bounds(s, 1)
			if b[0].Name != c.bound || b[0].Time > out.Makespan {
				t.Errorf("bounds %v, makespan %s", b, out.Makespan)
			}
			if p := out.Path; len(p) == 0 || p[0].Start > seconds(0.001) || p[len(p)-1].End+s.World.Latency != out.Makespan {
				t.Errorf("path %v", p)
			}
		})
	}
}

func limit(s *Setting, l backfill.Limiter) {
	s.Pipeline.Limiters["api"] = l
	s.Pipeline.Phases[0].Processors[0].Limiter = "api"
}

func TestWhatIsDoneIsNotDoneAgain(t *testing.T) {
	t.Parallel()
	s := setting(line("one", "two"), 10, backfill.Request{})
	for i := range 5 {
		s.Records[i] = backfill.NewRecord(s.Records[i].Date, "", backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "a", Kind: backfill.Skipped}})
	}
	if out := Run(s, 1); !out.Completed || out.Phases[0].Runs != 5 || out.Phases[1].Runs != 10 || out.Makespan != 2*time.Second {
		t.Errorf("%+v", out)
	}
}

func TestThrottledCallsDoNotUseUpAttempts(t *testing.T) {
	t.Parallel()
	s := setting(line("one"), 200, backfill.Request{})
	s.Pipeline.Phases[0].Processors[0].Attempts = 1
	s.World.Throttle = 0.5
	out := Run(s, 1)
	if !out.Completed || out.Attempts != 200 || out.Throttles < 100 {
		t.Errorf("%+v", out)
	}
}

func TestRunsThatFailForGoodEndTheRunIncomplete(t *testing.T) {
	t.Parallel()
	s := setting(line("one", "two"), 50, backfill.Request{})
	s.Pipeline.Phases[0].Processors[0].Attempts = 1
	s.World.FailRate = 0.2
	out := Run(s, 1)
	if out.Completed || out.Exhausted == 0 || out.Phases[1].Runs < 50-out.Exhausted {
		t.Errorf("%+v", out)
	}
}

func TestTheSameSeedIsTheSameRun(t *testing.T) {
	t.Parallel()
	s := setting(wide(), 40, backfill.Request{})
	uneven(&s)
	a, b, c := Run(s, 7), Run(s, 7), Run(s, 8)
	if fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("\n%+v\n%+v", a, b)
	}
	if a.Makespan == c.Makespan {
		t.Error("another seed makes no difference")
	}
}

// wide is a pipeline with all that pipelines have: an outside API, a phase that the platform starts by itself, one
// call for a whole phase, levels inside a phase, windows by days and games, and one that makes dates wait for
// earlier ones.
func wide() *backfill.Pipeline {
	p := line("scrape", "raw", "analytics", "features")
	p.Limiters["api"] = backfill.Limiter{Rate: 20, Burst: 3, InFlight: 12}
	scrape, raw, analytics, features := &p.Phases[0], &p.Phases[1], &p.Phases[2], &p.Phases[3]
	scrape.Processors, raw.Processors = nil, nil
	raw.Trigger.HTTP, raw.OnTimeout = nil, &backfill.Retrigger{Phase: "scrape", Match: map[string]string{}}
	for i := range 4 {
		s, r := proc(fmt.Sprint("s", i)), proc(fmt.Sprint("r", i))
		s.Limiter = "api"
		scrape.Processors, raw.Processors = append(scrape.Processors, s), append(raw.Processors, r)
		raw.OnTimeout.Match[s.Name] = r.Name
	}
	analytics.Trigger.HTTP = &backfill.HTTPTrigger{PerPhase: true, Async: true}
	b := proc("b")
	b.Needs = []backfill.Ref{{Phase: "analytics", Processor: "a"}}
	b.Windows = []backfill.Window{{Phase: "raw", Days: 7}}
	analytics.Processors = append(analytics.Processors, b)
	c, d := proc("c"), proc("d")
	c.Windows = []backfill.Window{{Phase: "analytics", Games: 5}}
	d.Needs = []backfill.Ref{{Phase: "features", Processor: "c"}}
	d.Windows = []backfill.Window{{Phase: "features", Games: 1}}
	features.Trigger.HTTP = &backfill.HTTPTrigger{Async: true}
	features.Processors = []backfill.Processor{c, d}
	return p
}

func uneven(s *Setting) {
	for i := range s.Pipeline.Phases {
		for _, pr := range s.Pipeline.Phases[i].Processors {
			s.World.Durations[backfill.Ref{Phase: s.Pipeline.Phases[i].ID, Processor: pr.Name}] = Spread{Median: 1, Sigma: 0.8}
		}
	}
}

// The race of the review: with 20 dates in parallel, uneven durations and failures, no processor may read a date
// that is not complete. What is read is judged from what the processors did.
func TestNothingReadsAnIncompleteDate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := setting(wide(), rapid.IntRange(1, 60).Draw(t, "dates"), backfill.Request{
			Order:         rapid.SampledFrom([]backfill.Order{backfill.OrderOverlap, backfill.OrderPhaseByPhase, backfill.OrderDateByDate}).Draw(t, "order"),
			ValidateFirst: rapid.IntRange(0, 3).Draw(t, "validate"),
		})
		uneven(&s)
		s.World.FailRate = rapid.Float64Range(0, 0.3).Draw(t, "fail")
		s.World.Throttle = rapid.Float64Range(0, 0.3).Draw(t, "throttle")
		for i := range s.Pipeline.Phases {
			s.Pipeline.Phases[i].MaxDates = 20
			s.Pipeline.Phases[i].MaxProcessors = rapid.IntRange(0, 30).Draw(t, "processors")
		}
		seed := rapid.Uint64().Draw(t, "seed")
		out := Run(s, seed)
		if out.Incomplete > 0 {
			t.Fatalf("%d phases read dates that were not complete", out.Incomplete)
		}
		if !out.Completed && out.Exhausted == 0 {
			t.Fatalf("stuck: %+v", out)
		}
		for _, ph := range out.Phases {
			if ph.Limit > 2 && ph.Peak > ph.Limit {
				t.Fatalf("%d processors at once in %s, %d are allowed", ph.Peak, ph.ID, ph.Limit)
			}
		}
		if b := Bounds(s, seed); out.Completed && b[0].Time > out.Makespan+time.Millisecond {
			t.Fatalf("%s is less than what %s allows: %s", out.Makespan, b[0].Name, b[0].Time)
		}
	})
}

// The judge must be able to condemn.
func TestAnIncompleteDateIsNoticed(t *testing.T) {
	t.Parallel()
	s := setting(wide(), 20, backfill.Request{})
	for _, c := range []struct {
		proc    string
		missing int  // the phase of which a processor is missing
		date    int  // and where
		counts  bool // to the features of date 10
	}{{"c", 2, 5, true}, {"c", 2, 4, false}, {"c", 2, 10, true}, {"d", 3, 9, true}, {"d", 3, 8, false}, {"d", 3, 10, false}, {"c", 1, 9, false}} {
		e := newEngine(s, 1)
		for i := range s.Records {
			for p := range s.Pipeline.Phases {
				for j := range s.Pipeline.Phases[p].Processors {
					if i != c.date || p != c.missing || j > 0 {
						e.state.finish(i, p)
					}
				}
			}
		}
		e.read(10, &s.Pipeline.Phases[3], []string{c.proc})
		if got := e.out.Incomplete == 1; got != c.counts {
			t.Errorf("%+v: noticed %v", c, got)
		}
	}
}

func TestPredictionsAreInOrder(t *testing.T) {
	t.Parallel()
	s := setting(wide(), 30, backfill.Request{})
	uneven(&s)
	p := Predict(s, 1, 9)
	if p.P10 >= p.P50 || p.P50 >= p.P90 || p.Typical.Makespan != p.P50 || p.Seeds != 9 || len(p.Bounds) == 0 {
		t.Errorf("%+v", p)
	}
	for _, u := range p.Typical.Uses() {
		if u.Share <= 0 || u.Share > 1.0001 {
			t.Errorf("%+v", u)
		}
	}
}

func TestSpreads(t *testing.T) {
	t.Parallel()
	s := FromPercentiles(20, 43, "x")
	if d := s.P90() - 43; d < -1e-9 || d > 1e-9 {
		t.Errorf("%+v", s)
	}
	w := World{FailRate: 0.1}
	below, failed := 0, 0
	for i := range 20000 {
		d := w.draw(3, s, backfill.Date(i), 1, 1)
		if d.took < 43*time.Second {
			below++
		}
		if !d.ok {
			failed++
		}
	}
	if failed < 1850 || failed > 2150 || below < 17900 || below > 18500 { // failures end earlier
		t.Errorf("%d of 20000 below the 90th percentile, %d failed", below, failed)
	}
}
