package scenario_test

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/pkg/simulate"
	"sluice.dev/services/sluice/local"
	"sluice.dev/services/sluice/platform"
)

// reference is NBA-4: the 845 dates, phases 1 to 4, one attempt in a hundred fails. The limits and durations are
// those of the pipeline file.
func reference(tb testing.TB, order backfill.Order) simulate.Setting {
	tb.Helper()
	p, err := pipeline.Parse("nba.yaml", []byte(local.NBA()), func(string) (string, bool) { return "http://x", true })
	if err != nil {
		tb.Fatal(err)
	}
	cal, err := platform.Calendar()
	if err != nil {
		tb.Fatal(err)
	}
	s := simulate.Setting{
		Backfill: &backfill.Backfill{ID: "nba-4", Calendar: cal, Dates: cal, Request: backfill.Request{
			Order: order, Phases: []string{"phase_1_scrape", "phase_2_raw", "phase_3_analytics", "phase_4_precompute"},
		}},
		Pipeline: p, World: simulate.World{FailRate: 0.01, Durations: map[backfill.Ref]simulate.Spread{}},
	}
	for _, part := range cal.All() {
		s.Records = append(s.Records, backfill.NewRecord(part.Date, part.Season))
	}
	for i := range p.Phases {
		for _, proc := range p.Phases[i].Processors {
			s.World.Durations[backfill.Ref{Phase: p.Phases[i].ID, Processor: proc.Name}] = simulate.FromPercentiles(
				proc.Expect.P50.Seconds(), proc.Expect.P90.Seconds(), "expect")
		}
	}
	return s
}

// makespanSeeds is how many runs each row stands for, by its median.
const makespanSeeds = 11

// BenchmarkMakespan is deterministic: it measures virtual time. The time that it takes itself is that of the
// simulation.
func BenchmarkMakespan(b *testing.B) {
	for b.Loop() {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		_, _ = fmt.Fprint(w, "\nNBA-4\tmakespan\tof the lower bound\ttimes as fast as the scripts\tanswered 429\tdates read incomplete\tcalls lost\t\n")
		bounds := make([]time.Duration, makespanSeeds)
		for seed := range bounds {
			bounds[seed] = simulate.Bounds(reference(b, backfill.OrderOverlap), uint64(seed))[0].Time
		}
		scripts := func(name string, kind bool) time.Duration {
			runs := make([]scriptRun, makespanSeeds)
			var took []time.Duration
			for seed := range runs {
				runs[seed] = runScripts(reference(b, backfill.OrderOverlap), uint64(seed), kind)
				took = append(took, runs[seed].took)
			}
			ratio, mid := middle(took, bounds)
			r := runs[mid]
			_, _ = fmt.Fprintf(w, "%s\t%s\t%.2f\t\t%d\t%d\t%d\t\n", name, hours(r.took), ratio, r.throttled, r.incomplete, r.lost)
			return r.took
		}
		scripts("the scripts", false)
		baseline := scripts("the scripts, if nothing failed and the APIs took everything", true)
		for _, order := range []backfill.Order{backfill.OrderDateByDate, backfill.OrderPhaseByPhase, backfill.OrderOverlap} {
			runs := make([]simulate.Outcome, makespanSeeds)
			var took []time.Duration
			for seed := range runs {
				runs[seed] = simulate.Run(reference(b, order), uint64(seed))
				took = append(took, runs[seed].Makespan)
				if o := runs[seed]; !o.Completed || o.Exhausted > 0 {
					b.Fatalf("%s, seed %d: ended with %d runs given up", order, seed, o.Exhausted)
				}
			}
			ratio, mid := middle(took, bounds)
			o := runs[mid]
			_, _ = fmt.Fprintf(w, "%s\t%s\t%.3f\t%.1f\t%d\t%d\t0\t\n", order, hours(o.Makespan), ratio,
				baseline.Seconds()/o.Makespan.Seconds(), o.Throttles, o.Incomplete)
			b.ReportMetric(ratio, string(order)+"-of-bound")
		}
		_, mid := middle(bounds, bounds)
		_, _ = fmt.Fprintf(w, "lower bound\t%s\t1\t\t\t\t\t\n", hours(bounds[mid]))
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// middle is the median of what runs took in terms of their own lower bounds, and the seed that has it.
func middle(took, bounds []time.Duration) (ratio float64, seed int) {
	seeds := make([]int, len(took))
	for i := range seeds {
		seeds[i] = i
	}
	of := func(i int) float64 { return took[i].Seconds() / bounds[i].Seconds() }
	slices.SortStableFunc(seeds, func(i, j int) int { return cmp.Compare(of(i), of(j)) })
	seed = seeds[len(seeds)/2]
	return of(seed), seed
}

func hours(d time.Duration) string { return d.Round(time.Second).String() }

// scriptRun is how the old plan's scripts would have gone.
type scriptRun struct {
	took       time.Duration
	throttled  int // calls answered 429, which nobody makes again
	incomplete int // dates that the next phase read although processors were missing
	lost       int // processors that failed or were turned away and never ran again
}

// scripts are the old plan: batches, polls and time limits as the platform's description gives them. Nothing
// that fails is made again.
type scripts struct {
	s    simulate.Setting
	seed uint64
	kind bool // no attempt fails, and the outside APIs take whatever comes
	scriptRun
}

// polling is how a script waits: it looks, and looks again every so often, so long at most.
type polling struct{ every, most time.Duration }

func runScripts(s simulate.Setting, seed uint64, kind bool) scriptRun {
	x := &scripts{s: s, seed: seed, kind: kind}
	if kind {
		x.s.World.FailRate = 0
	}
	var old, current []backfill.Partition
	for _, p := range s.Backfill.Dates.All() {
		if p.Season == "2024-25" {
			current = append(current, p)
		} else {
			old = append(old, p)
		}
	}
	raw := map[backfill.Date]bool{} // complete
	analytics := map[backfill.Date]bool{}
	for batch := range slices.Chunk(old, 10) {
		x.scrape(batch, raw, 2*time.Minute, polling{30 * time.Second, 10 * time.Minute})
	}
	for batch := range slices.Chunk(old, 20) {
		x.phase(2, batch, raw, analytics, polling{time.Minute, 20 * time.Minute})
	}
	for batch := range slices.Chunk(old, 10) {
		x.phase(3, batch, analytics, map[backfill.Date]bool{}, polling{2 * time.Minute, 40 * time.Minute})
	}
	for date := range slices.Chunk(current, 1) {
		x.scrape(date, raw, 0, polling{time.Minute, 10 * time.Minute})
		x.phase(2, date, raw, analytics, polling{time.Minute, 20 * time.Minute})
		x.phase(3, date, analytics, map[backfill.Date]bool{}, polling{time.Minute, 40 * time.Minute})
	}
	return x.scriptRun
}

// draw is one attempt at a processor.
func (x *scripts) draw(ref backfill.Ref, d backfill.Date) (time.Duration, bool) {
	took, ok := x.s.World.Draw(x.seed, ref, d, 1)
	if !ok {
		x.lost++
	}
	return took, ok
}

// scrape fires all calls of a batch at once, waits for all of them, sleeps, and then polls date by date until 18
// of 21 raw processors are done.
func (x *scripts) scrape(batch []backfill.Partition, complete map[backfill.Date]bool, sleep time.Duration, p polling) {
	tokens := map[string]int{}
	var slowest time.Duration
	ends := make([][]time.Duration, len(batch)) // of the raw processors that will end
	for i, part := range batch {
		for _, proc := range x.s.Pipeline.Phases[0].Processors {
			l := x.s.Pipeline.Limiters[proc.Limiter]
			if tokens[proc.Limiter]++; !x.kind && tokens[proc.Limiter] > l.Burst {
				x.throttled++ // all at once: what the bucket holds is all that passes
				x.lost += 2   // the scraper, and the raw processor that it would have started
				continue
			}
			took, ok := x.draw(backfill.Ref{Phase: "phase_1_scrape", Processor: proc.Name}, part.Date)
			slowest = max(slowest, took)
			if !ok {
				x.lost++
				continue
			}
			raw := backfill.Ref{Phase: "phase_2_raw", Processor: x.s.Pipeline.Phases[1].OnTimeout.Match[proc.Name]}
			if more, ok := x.draw(raw, part.Date); ok {
				ends[i] = append(ends[i], took+more)
			}
		}
	}
	now := slowest + sleep
	for i, part := range batch {
		now = p.wait(now, ends[i], 18)
		read := now
		if len(batch) > 1 {
			read = time.Duration(1<<63 - 1) // phase 3 of the old seasons comes hours later
		}
		complete[part.Date] = len(ends[i]) == 21 && !slices.ContainsFunc(ends[i], func(end time.Duration) bool { return end > read })
	}
	x.took += now
}

// wait polls until so many have ended.
func (p polling) wait(now time.Duration, ends []time.Duration, want int) time.Duration {
	for waited := time.Duration(0); ; waited += p.every {
		done := 0
		for _, end := range ends {
			if end <= now+waited {
				done++
			}
		}
		if done >= want || waited >= p.most {
			return now + waited
		}
	}
}

// phase fires a later phase for a batch and polls until every processor of every date has ended.
func (x *scripts) phase(n int, batch []backfill.Partition, before, complete map[backfill.Date]bool, p polling) {
	ph := &x.s.Pipeline.Phases[n]
	var ends []time.Duration
	for _, part := range batch {
		if !before[part.Date] {
			x.incomplete++
		}
		mine := map[string]time.Duration{}
		whole := true
		for _, proc := range ph.Processors { // in an order in which each comes after what it needs
			took, ok := x.draw(backfill.Ref{Phase: ph.ID, Processor: proc.Name}, part.Date)
			for _, need := range proc.Needs {
				took = max(took, mine[need.Processor]+took)
			}
			mine[proc.Name] = took
			if whole = whole && ok; ok {
				ends = append(ends, took)
			}
		}
		complete[part.Date] = whole
	}
	x.took += p.wait(0, ends, len(batch)*len(ph.Processors))
}

// The kinder model of the scripts has to stay kind: nothing may be lost in it.
func TestScriptsModel(t *testing.T) {
	t.Parallel()
	s := reference(t, backfill.OrderOverlap)
	kind, old := runScripts(s, 1, true), runScripts(s, 1, false)
	// Even so, 18 of 21 are enough for a script that reads at once.
	if kind.lost+kind.throttled > 0 || kind.incomplete > 213 {
		t.Errorf("the kind model: %+v", kind)
	}
	// All at once: what a bucket holds is all that passes. 63 batches of ten dates, one of two, 213 single dates.
	if want := 845*21 - 63*(5+10) - (5 + 6) - 213*(5+3); old.throttled != want {
		t.Errorf("%d calls answered 429, not %d", old.throttled, want)
	}
	if old.incomplete < 845 || old.took <= kind.took {
		t.Errorf("%+v", old)
	}
}
