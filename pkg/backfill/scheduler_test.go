package backfill_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice.dev/pkg/backfill"
)

// lanes is a pipeline of two phases with limits and a limiter.
func lanes() *backfill.Pipeline {
	return &backfill.Pipeline{
		Name: "p", Limiters: map[string]backfill.Limiter{"api": {Rate: 2, Burst: 2, InFlight: 3}, "cap": {InFlight: 2}},
		Phases: []backfill.Phase{{ID: "one", MaxDates: 3, MaxProcessors: 8}, {ID: "two", MaxProcessors: 4}},
	}
}

func job(phase string, d int, limiter string, processors ...string) backfill.Job {
	attempts := make([]int, len(processors))
	for i := range attempts {
		attempts[i] = 1
	}
	return backfill.Job{
		Lane: backfill.Lane{Backfill: "b", Phase: phase}, Date: first + backfill.Date(d), Processors: processors, Attempts: attempts, Limiter: limiter,
	}
}

func key(j backfill.Job, i int) backfill.RunKey {
	return backfill.RunKey{Lane: j.Lane, Date: j.Date, Processor: j.Processors[i]}
}

func scheduler(p *backfill.Pipeline) *backfill.Scheduler {
	s := backfill.NewScheduler(0, 0)
	s.Add("b", p, nil)
	return s
}

func names(jobs []backfill.Job) []string {
	var out []string
	for _, j := range jobs {
		out = append(out, fmt.Sprintf("%s%d%v", j.Phase, int(j.Date-first), j.Processors))
	}
	return out
}

func TestOldestDateFirstWithinTheLimitOnDates(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	for d := 5; d > 0; d-- {
		s.Offer(job("one", d, "", "a"))
		s.Offer(job("one", d, "", "a")) // told twice
	}
	got := names(s.Admit(epoch))
	if want := []string{"one1[a]", "one2[a]", "one3[a]"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	s.Finish(key(job("one", 2, "", "a"), 0), backfill.Calm, "", epoch)
	if got := names(s.Admit(epoch)); !slices.Equal(got, []string{"one4[a]"}) {
		t.Errorf("then %v", got)
	}
}

func TestLaterPhasesFirst(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	s.Offer(job("one", 1, "", "a"))
	s.Offer(job("two", 2, "", "b"))
	if got := names(s.Admit(epoch)); !slices.Equal(got, []string{"two2[b]", "one1[a]"}) {
		t.Errorf("%v", got)
	}
}

// Calls to one outside API go at its rate, however many wait, and never more at once than it allows.
func TestLimiterSpreadsCalls(t *testing.T) {
	t.Parallel()
	p := lanes()
	p.Phases[0].MaxDates, p.Phases[0].MaxProcessors = 0, 0
	p.Limiters["api"] = backfill.Limiter{Rate: 5, Burst: 2}
	s := scheduler(p)
	for d := range 50 {
		s.Offer(job("one", d, "api", "a"))
	}
	var at []time.Duration
	for now := epoch; len(at) < 50; {
		for range s.Admit(now) {
			at = append(at, now.Sub(epoch))
		}
		next := s.Next(now)
		if len(at) < 50 && !next.After(now) {
			t.Fatalf("after %d calls there is nothing to wait for", len(at))
		}
		now = next
	}
	for i := range at {
		if i >= 2 && at[i]-at[i-2] < 195*time.Millisecond {
			t.Errorf("calls %d and %d are %s apart", i-2, i, at[i]-at[i-2])
		}
	}
	if last := at[49]; last < 9500*time.Millisecond || last > 9700*time.Millisecond { // (50-2)/5 s
		t.Errorf("the last call went at %s", last)
	}
}

func TestLimiterIsSharedAndCapsCallsNotRuns(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	for i, phase := range []string{"one", "two", "two"} {
		s.Offer(job(phase, i, "cap", "a"))
	}
	jobs := s.Admit(epoch)
	if len(jobs) != 2 || !s.Next(epoch).IsZero() {
		t.Fatalf("%v", names(jobs))
	}
	s.Returned(key(jobs[0], 0)) // the call is answered, the run goes on
	if got := s.Admit(epoch); len(got) != 1 || s.InFlight("b") != 3 {
		t.Errorf("%v", names(got))
	}
}

func TestThrottledGoesAgainWhenTold(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	s.Offer(job("one", 1, "api", "a"))
	s.Offer(job("one", 2, "api", "b"))
	jobs := s.Admit(epoch)
	s.Throttled(jobs[0], epoch.Add(30*time.Second), "HTTP 429", epoch)
	s.Offer(job("one", 3, "api", "c"))
	s.Offer(job("one", 3, "", "d")) // has nothing to do with that API
	if got := names(s.Admit(epoch.Add(29 * time.Second))); !slices.Equal(got, []string{"one3[d]"}) {
		t.Errorf("while the API rests: %v", got)
	}
	if next := s.Next(epoch.Add(29 * time.Second)); !next.Equal(epoch.Add(30 * time.Second)) {
		t.Errorf("next at %s", next)
	}
	if got := names(s.Admit(epoch.Add(30 * time.Second))); !slices.Equal(got, []string{"one1[a]", "one3[c]"}) {
		t.Errorf("after that: %v", got)
	}
	changes := s.Changes()
	if len(changes) != 1 || changes[0].Limit != 4 || changes[0].Reason != "HTTP 429" {
		t.Errorf("window: %+v", changes)
	}
}

// A burst of bad answers to calls of one round trip halves the window once; calm answers bring it back.
func TestWindowHalvesOncePerRoundTripAndRecovers(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	one := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for i, n := range one {
		s.Offer(job("one", i%3, "", n))
	}
	jobs := s.Admit(epoch)
	if len(jobs) != 8 {
		t.Fatalf("%d jobs", len(jobs))
	}
	for _, j := range jobs {
		s.Finish(key(j, 0), backfill.Overloaded, "timeout", epoch.Add(time.Second))
	}
	if c := s.Changes(); len(c) != 1 || c[0].Limit != 4 || c[0].Reason != "timeout" {
		t.Fatalf("%+v", c)
	}
	now, rounds := epoch.Add(2*time.Second), 0
	for limit := 4; limit < 8; rounds++ {
		for i := range limit {
			s.Offer(job("one", 10+i%3, "", fmt.Sprint("r", rounds, "-", i)))
		}
		for _, j := range s.Admit(now) {
			s.Finish(key(j, 0), backfill.Calm, "", now)
		}
		for _, c := range s.Changes() {
			limit = c.Limit
		}
		now = now.Add(time.Second)
		if rounds > 10 {
			t.Fatal("the window does not come back")
		}
	}
	for range 20 { // never below one
		s.Offer(job("one", 1, "", fmt.Sprint(now)))
		for _, j := range s.Admit(now) {
			s.Finish(key(j, 0), backfill.Overloaded, "timeout", now)
		}
		now = now.Add(time.Second)
	}
	s.Offer(job("one", 1, "", "last"))
	if got := s.Admit(now); len(got) != 1 {
		t.Errorf("a window of one admits %v", names(got))
	}
}

func TestRampOpensWithCalm(t *testing.T) {
	t.Parallel()
	p := lanes()
	p.Phases[0].MaxDates, p.Phases[0].MaxProcessors = 10, 0
	p.Phases[0].Ramp = backfill.Ramp{Start: 2, Step: 3, Every: 2}
	s := scheduler(p)
	for d := range 20 {
		s.Offer(job("one", d, "", "a"))
	}
	var widths []int
	for now := epoch; len(widths) < 4; now = now.Add(time.Second) {
		jobs := s.Admit(now)
		widths = append(widths, len(jobs))
		for _, j := range jobs {
			s.Finish(key(j, 0), backfill.Calm, "", now)
		}
	}
	if !slices.Equal(widths, []int{2, 5, 10, 3}) { // 2, then +3 per two calm ones up to 10, and what is left
		t.Errorf("dates in flight: %v", widths)
	}
}

func TestPauseHoldsBackAndAnswersOfOneDoNotFreeAnother(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	s.Offer(job("one", 1, "", "a"))
	s.Pause("b", true)
	if got := s.Admit(epoch); len(got) != 0 || !s.Next(epoch).IsZero() || s.Quiet("b") {
		t.Errorf("while paused: %v", names(got))
	}
	s.Pause("b", false)
	if got := s.Admit(epoch); len(got) != 1 {
		t.Errorf("resumed: %v", names(got))
	}
	if s.Finish(key(job("one", 2, "", "a"), 0), backfill.Calm, "", epoch) {
		t.Error("a run that is not in flight ended")
	}
	s.Finish(key(job("one", 1, "", "a"), 0), backfill.Calm, "", epoch)
	if !s.Quiet("b") || s.InFlight("b") != 0 {
		t.Error("not quiet at the end")
	}
}

func TestBackfillsTakeTurns(t *testing.T) {
	t.Parallel()
	s := backfill.NewScheduler(0, 0)
	for _, id := range []string{"b", "c"} {
		p := lanes()
		p.Name = id // other pipelines: they share no limiter
		s.Add(id, p, map[string]backfill.Limits{"two": {MaxProcessors: 2}})
		for d := range 3 {
			j := job("two", d, "", "a")
			j.Backfill = id
			s.Offer(j)
		}
	}
	var ids []string
	for _, j := range s.Admit(epoch) {
		ids = append(ids, j.Backfill)
	}
	if !slices.Equal(ids, []string{"b", "c", "c", "b"}) && !slices.Equal(ids, []string{"b", "c", "b", "c"}) {
		t.Errorf("%v", ids)
	}
}

func TestUnrecordedAnswersHoldAdmissionBack(t *testing.T) {
	t.Parallel()
	s := backfill.NewScheduler(2, 0)
	s.Add("b", lanes(), nil)
	for d := range 3 {
		s.Offer(job("one", d, "", "a"))
	}
	jobs := s.Admit(epoch)
	s.Answered(key(jobs[0], 0), backfill.Calm, "", epoch)
	s.Answered(key(jobs[1], 0), backfill.Calm, "", epoch)
	s.Offer(job("one", 5, "", "a"))
	if got := s.Admit(epoch); len(got) != 0 {
		t.Errorf("%v went although two answers are not on record", names(got))
	}
	s.Recorded(key(jobs[0], 0))
	if got := s.Admit(epoch); len(got) != 1 {
		t.Errorf("%v", names(got))
	}
	s.Answered(key(jobs[2], 0), backfill.Calm, "", epoch)
	s.Offer(job("one", 6, "", "a"))
	if got := s.Admit(epoch.Add(time.Minute)); len(got) != 1 {
		t.Errorf("news that never comes is waited for: %v", names(got))
	}
}

// What a trigger that is told twice, or a walk over the documents, asks for may have been answered a moment ago.
func TestAnAnsweredAttemptIsNotOfferedAgain(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	j := job("one", 1, "", "a", "b")
	s.Offer(j)
	s.Admit(epoch)
	s.Answered(key(j, 0), backfill.Calm, "", epoch)
	s.Answered(key(j, 1), backfill.Calm, "", epoch)
	again := j
	again.Repeat = true
	s.Offer(again)
	if got := s.Admit(epoch); len(got) != 0 || !s.Quiet("b") {
		t.Errorf("%v is called again before its outcome is on record", names(got))
	}
	s.Recorded(key(j, 0))
	again.Attempts = []int{1, 2} // the first was lost after all; of the second the record knows that it failed
	s.Offer(again)
	if got := s.Admit(epoch); len(got) != 1 || len(got[0].Processors) != 2 {
		t.Errorf("%+v", got)
	}
}

// News of an old attempt, told late or twice, must not end the attempt in flight, nor lose it when it is put back.
func TestOldNewsDoesNotEndTheAttemptInFlight(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	j := job("one", 1, "", "a")
	j.Attempts[0] = 2
	s.Offer(j)
	s.Admit(epoch)
	s.Ended(key(j, 0), 1, backfill.Neutral, epoch)
	if !s.Running(key(j, 0)) {
		t.Fatal("attempt 1 ended attempt 2")
	}
	s.Ended(key(j, 0), 2, backfill.Neutral, epoch)
	s.Throttled(j, epoch.Add(time.Second), "HTTP 429", epoch) // the call's own answer comes after the news
	if got := s.Admit(epoch.Add(time.Second)); len(got) != 1 {
		t.Errorf("a job that was put back is lost: %v", names(got))
	}
}

func TestOccupiedRoomCounts(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	for i := range 4 {
		s.Occupy(key(job("two", 1, "", fmt.Sprint("p", i)), 0), 1, epoch)
	}
	s.Offer(job("two", 1, "", "q"))
	if got := s.Admit(epoch); len(got) != 0 || s.InFlight("b") != 4 {
		t.Errorf("%v", names(got))
	}
	s.Finish(key(job("two", 1, "", "p2"), 0), backfill.Calm, "", epoch)
	if got := s.Admit(epoch); len(got) != 1 {
		t.Errorf("%v", names(got))
	}
}

// Whatever happens in whatever order: no limit is ever passed, nothing is lost and nothing goes twice.
func TestLimitsHoldAndNothingIsLost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := lanes()
		s := scheduler(p)
		open := map[string]backfill.Job{} // in flight
		offered, done := map[string]bool{}, map[string]bool{}
		now := epoch
		name := func(j backfill.Job) string { return fmt.Sprint(j.Phase, j.Date, j.Processors) }
		check := func() {
			dates, runs, calls := map[string]map[backfill.Date]bool{}, map[string]int{}, map[string]int{}
			for _, j := range open {
				if dates[j.Phase] == nil {
					dates[j.Phase] = map[backfill.Date]bool{}
				}
				dates[j.Phase][j.Date] = true
				runs[j.Phase] += len(j.Processors)
				calls[j.Limiter]++
			}
			if len(dates["one"]) > 3 || runs["one"] > 8 || runs["two"] > 4 || calls["api"] > 3 || calls["cap"] > 2 {
				t.Fatalf("dates %v runs %v calls %v", dates, runs, calls)
			}
		}
		step := func(what int) {
			switch what {
			case 0:
				j := job(rapid.SampledFrom([]string{"one", "two"}).Draw(t, "phase"), rapid.IntRange(0, 6).Draw(t, "date"),
					rapid.SampledFrom([]string{"", "api", "cap"}).Draw(t, "limiter"), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"))
				if j.Processors[0] == "c" && j.Limiter == "" {
					j.Processors, j.Attempts = []string{"c", "d", "e"}, []int{1, 1, 1}
				}
				if !offered[name(j)] {
					offered[name(j)] = true
					for i := range j.Processors {
						if s.Known(key(j, i)) { // part of a larger job with the same processor
							offered[name(j)] = false
						}
					}
					s.Offer(j)
				}
			case 1:
				for _, j := range s.Admit(now) {
					if _, twice := open[name(j)]; twice {
						t.Fatalf("%s went twice", name(j))
					}
					open[name(j)] = j
				}
			default:
				if len(open) == 0 {
					return
				}
				all := make([]string, 0, len(open))
				for n := range open {
					all = append(all, n)
				}
				slices.Sort(all)
				n := rapid.SampledFrom(all).Draw(t, "ends")
				j := open[n]
				delete(open, n)
				if what == 2 {
					s.Throttled(j, now.Add(time.Second), "429", now)
					return
				}
				for i := range j.Processors {
					s.Finish(key(j, i), backfill.Calm, "", now)
				}
				done[n] = true
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step(rapid.IntRange(0, 3).Draw(t, "what"))
			now = now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "ms")) * time.Millisecond)
			check()
		}
		for range 500 { // let it run dry
			step(1)
			check()
			for n, j := range open {
				delete(open, n)
				for i := range j.Processors {
					s.Finish(key(j, i), backfill.Calm, "", now)
				}
				done[n] = true
			}
			now = now.Add(time.Second)
		}
		if !s.Quiet("b") || s.InFlight("b") != 0 {
			t.Fatal("not quiet at the end")
		}
		for n, whole := range offered {
			if whole && !done[n] {
				t.Fatalf("%s was lost", n)
			}
		}
	})
}

func TestLimitsChangeWhileRunning(t *testing.T) {
	t.Parallel()
	p := lanes()
	s := scheduler(p)
	for i := range 20 {
		s.Offer(job("one", i, "", "a", "b"))
	}
	if got := s.Admit(epoch); len(got) != 3 {
		t.Fatalf("%v", names(got))
	}
	s.Limit("b", p, map[string]backfill.Limits{"one": {MaxDates: 1, MaxProcessors: 2}})
	if c := s.Changes(); len(c) != 1 || c[0].Limit != 2 || c[0].Reason == "" {
		t.Errorf("%+v", c)
	}
	for i := range 2 {
		for n := range 2 {
			s.Finish(key(job("one", i, "", "a", "b"), n), backfill.Calm, "", epoch)
		}
	}
	if got := s.Admit(epoch); len(got) != 0 { // one date of two processors is in flight still
		t.Errorf("above the new limit: %v", names(got))
	}
	s.Limit("b", p, nil)
	if got := names(s.Admit(epoch)); len(got) != 2 {
		t.Errorf("back to the pipeline's own limits: %v", got)
	}
	if in, limit := s.Load(backfill.Lane{Backfill: "b", Phase: "one"}); in != 6 || limit != 8 {
		t.Errorf("%d of %d", in, limit)
	}
}

// A halved window stays halved when the ceiling moves, but never above it.
func TestACeilingDoesNotUndoAHalving(t *testing.T) {
	t.Parallel()
	p := lanes()
	s := scheduler(p)
	lane := backfill.Lane{Backfill: "b", Phase: "one"}
	for _, c := range []struct {
		do    func()
		limit int
	}{
		{func() { s.Press(lane, "slots", epoch.Add(time.Second)) }, 4},
		{func() { s.Limit("b", p, map[string]backfill.Limits{"one": {MaxProcessors: 7}}) }, 4},
		{func() { s.Limit("b", p, map[string]backfill.Limits{"one": {MaxProcessors: 3}}) }, 3},
		{func() { s.Limit("b", p, nil) }, 8},
	} {
		c.do()
		if _, limit := s.Load(lane); limit != c.limit {
			t.Errorf("the window is %d, not %d", limit, c.limit)
		}
	}
	if c := s.Changes(); len(c) != 3 || c[0].Reason != "slots" {
		t.Errorf("%+v", c)
	}
}

func TestEveryChangeOfAWindowIsTold(t *testing.T) {
	t.Parallel()
	s := scheduler(lanes())
	lane := backfill.Lane{Backfill: "b", Phase: "one"}
	s.Press(lane, "slots", epoch)
	told := []int{}
	for i := range 40 {
		s.Offer(job("one", 0, "", fmt.Sprint(i)))
		s.Admit(epoch)
		s.Finish(key(job("one", 0, "", fmt.Sprint(i)), 0), backfill.Calm, "", epoch)
	}
	for _, c := range s.Changes() {
		told = append(told, c.Limit)
	}
	if !slices.Equal(told, []int{4, 5, 6, 7, 8}) {
		t.Errorf("%v", told)
	}
}

// Oldest date first, until the last dates are in: then what has most behind it goes first.
func TestTheLongestChainGoesFirstAtTheEnd(t *testing.T) {
	t.Parallel()
	p := &backfill.Pipeline{Name: "p", Phases: []backfill.Phase{{ID: "one"}, {ID: "two", MaxDates: 2, MaxProcessors: 1}}}
	s := scheduler(p)
	chained := func(d, chain int) backfill.Job {
		j := job("two", d, "", fmt.Sprint("c", chain))
		j.Chain = chain
		return j
	}
	before := job("one", 9, "", "a")
	s.Offer(before)
	s.Admit(epoch)
	for _, j := range []backfill.Job{chained(1, 0), chained(1, 1), chained(2, 2)} {
		s.Offer(j)
	}
	if got := names(s.Admit(epoch)); !slices.Equal(got, []string{"two1[c0]"}) {
		t.Errorf("while more dates are to come: %v", got)
	}
	s.Finish(key(before, 0), backfill.Calm, "", epoch) // no more dates are to come
	s.Finish(key(chained(1, 0), 0), backfill.Calm, "", epoch)
	if got := names(s.Admit(epoch)); !slices.Equal(got, []string{"two2[c2]"}) {
		t.Errorf("at the end: %v", got)
	}
	s.Offer(chained(3, 5)) // one more after all, which must wait for room
	s.Finish(key(chained(2, 2), 0), backfill.Calm, "", epoch)
	if got := names(s.Admit(epoch)); !slices.Equal(got, []string{"two3[c5]"}) {
		t.Errorf("one more: %v", got)
	}
}

// Triggers come in no order: a moment is waited for those of the oldest dates.
func TestFirstJobsAreGathered(t *testing.T) {
	t.Parallel()
	s := backfill.NewScheduler(0, time.Second)
	s.Add("b", lanes(), nil)
	if got := s.Admit(epoch); len(got) != 0 || !s.Next(epoch).IsZero() {
		t.Errorf("%v", names(got))
	}
	later := epoch.Add(time.Hour)
	for _, d := range []int{9, 8, 7, 1} {
		s.Offer(job("one", d, "", "a"))
		if got := s.Admit(later); len(got) != 0 {
			t.Fatalf("at once: %v", names(got))
		}
	}
	if next := s.Next(later); !next.Equal(later.Add(time.Second)) {
		t.Errorf("look again at %s", next)
	}
	if got := names(s.Admit(later.Add(time.Second))); !slices.Equal(got, []string{"one1[a]", "one7[a]", "one8[a]"}) {
		t.Errorf("%v", got)
	}
	s.Finish(key(job("one", 1, "", "a"), 0), backfill.Calm, "", later)
	if got := names(s.Admit(later.Add(time.Second))); !slices.Equal(got, []string{"one9[a]"}) {
		t.Errorf("then without waiting: %v", got)
	}
}
