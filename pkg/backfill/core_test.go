package backfill_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sluice.dev/pkg/backfill"
)

func run(t *testing.T, fs ...backfill.Fact) backfill.Run {
	t.Helper()
	p := chain()
	r := record(fs...)
	return r.Run("b", &p.Phases[0], &p.Phases[0].Processors[0])
}

func at(kind backfill.Kind, attempt int, second int) backfill.Fact {
	return backfill.Fact{
		Key:   backfill.Key{Phase: "one", Processor: "a", Kind: kind, Attempt: attempt},
		Value: backfill.Value{At: epoch.Add(time.Duration(second) * time.Second), Message: string(kind)},
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		facts   []backfill.Fact
		state   backfill.RunState
		attempt int
	}{
		"nothing":                    {nil, backfill.RunPending, 1},
		"dispatched":                 {[]backfill.Fact{at(backfill.Dispatched, 1, 0)}, backfill.RunInFlight, 1},
		"failed once":                {[]backfill.Fact{at(backfill.Dispatched, 1, 0), at(backfill.Failed, 1, 1)}, backfill.RunRetrying, 2},
		"second attempt":             {[]backfill.Fact{at(backfill.Failed, 1, 1), at(backfill.Dispatched, 2, 2)}, backfill.RunInFlight, 2},
		"rejected":                   {[]backfill.Fact{at(backfill.Rejected, 1, 1)}, backfill.RunExhausted, 2},
		"three failures":             {[]backfill.Fact{at(backfill.Failed, 1, 1), at(backfill.Failed, 2, 2), at(backfill.Failed, 3, 3)}, backfill.RunExhausted, 4},
		"granted more":               {[]backfill.Fact{at(backfill.Failed, 1, 1), at(backfill.Failed, 2, 2), at(backfill.Failed, 3, 3), at(backfill.Retried, 3, 9)}, backfill.RunRetrying, 4},
		"granted after a rejection":  {[]backfill.Fact{at(backfill.Rejected, 1, 1), at(backfill.Retried, 1, 9)}, backfill.RunRetrying, 2},
		"used up the grant":          {[]backfill.Fact{at(backfill.Rejected, 1, 1), at(backfill.Retried, 1, 9), at(backfill.Failed, 2, 10), at(backfill.Failed, 3, 11), at(backfill.Failed, 4, 12)}, backfill.RunExhausted, 5},
		"late success of the first":  {[]backfill.Fact{at(backfill.Failed, 1, 1), at(backfill.Dispatched, 2, 2), at(backfill.Succeeded, 1, 3)}, backfill.RunSucceeded, 1},
		"late failure after success": {[]backfill.Fact{at(backfill.Succeeded, 1, 1), at(backfill.Failed, 1, 2)}, backfill.RunSucceeded, 1},
		"partial counts as failed":   {[]backfill.Fact{at(backfill.Partial, 1, 1)}, backfill.RunRetrying, 2},
		"skipped in history":         {[]backfill.Fact{at(backfill.Skipped, 0, 1)}, backfill.RunSkipped, 1},
		"reported as skipped":        {[]backfill.Fact{at(backfill.ReportedSkip, 1, 1)}, backfill.RunSucceeded, 1},
		"waived":                     {[]backfill.Fact{at(backfill.Rejected, 1, 1), at(backfill.Waived, 0, 2)}, backfill.RunWaived, 2},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := run(t, c.facts...); got.State != c.state || got.Attempt != c.attempt {
				t.Errorf("%s attempt %d, want %s attempt %d", got.State, got.Attempt, c.state, c.attempt)
			}
		})
	}
}

func TestAcceptedPartialSucceeds(t *testing.T) {
	t.Parallel()
	p := chain()
	p.Phases[0].Processors[0].AcceptPartial = true
	r := record(at(backfill.Partial, 1, 1))
	if got := r.Run("b", &p.Phases[0], &p.Phases[0].Processors[0]).State; got != backfill.RunSucceeded {
		t.Errorf("got %s", got)
	}
}

func TestExamine(t *testing.T) {
	t.Parallel()
	s := backfill.NewScope(days(10, backfill.Request{}), chain())
	open := backfill.Fact{Key: backfill.Key{Phase: "one", Kind: backfill.Triggered}, Value: backfill.Value{At: epoch}}
	now := epoch.Add(30 * time.Second)
	closed := record(at(backfill.Dispatched, 1, 0))
	if f := s.Examine(&closed, now, false); f.Open || len(f.Ready) > 0 {
		t.Errorf("a closed gate lets %+v through", f)
	}
	r := record(open, at(backfill.Dispatched, 1, 0))
	f := s.Examine(&r, now, false)
	if len(f.Ready) != 1 || f.Ready[0].Processor != "b" || len(f.Expired) != 0 || !f.Next.Equal(epoch.Add(time.Minute)) {
		t.Errorf("in flight: %+v", f)
	}
	if f := s.Examine(&r, now, true); len(f.Ready) != 2 || f.Ready[0].Attempt != 1 {
		t.Errorf("after a restart the call is repeated as the same attempt: %+v", f)
	}
	r2 := r.Add(at(backfill.Accepted, 1, 1))
	if f := s.Examine(&r2, now, true); len(f.Ready) != 1 {
		t.Errorf("accepted work is waited for, not repeated: %+v", f)
	}
	// Without a trigger the first attempt is the platform's own, and those after it are calls of the phase that feeds it.
	own := chain()
	own.Phases[0].Trigger.HTTP, own.Phases[0].OnTimeout = nil, &backfill.Retrigger{Phase: "zero", Match: map[string]string{"z": "a"}}
	so := backfill.NewScope(days(10, backfill.Request{}), own)
	if f := so.Examine(&r, now, true); len(f.Ready) != 1 || f.Ready[0].Processor != "b" {
		t.Errorf("the platform goes on after our restart: %+v", f)
	}
	second := r2.Add(at(backfill.Failed, 1, 2)).Add(at(backfill.Dispatched, 2, 3))
	if f := so.Examine(&second, now, true); len(f.Ready) != 2 || f.Ready[0].Attempt != 2 || !f.Ready[0].Repeat {
		t.Errorf("a lost call to start it again is repeated: %+v", f)
	}
	second = second.Add(at(backfill.Accepted, 2, 4))
	if f := so.Examine(&second, now, true); len(f.Ready) != 1 {
		t.Errorf("it was started again already: %+v", f)
	}
	if f := s.Examine(&r2, epoch.Add(time.Hour), false); len(f.Expired) != 1 || f.Expired[0].Processor != "a" {
		t.Errorf("expired: %+v", f)
	}
}

func TestSeasonsAndSelectedPhases(t *testing.T) {
	t.Parallel()
	p := chain()
	p.Phases[1].Seasons = []string{"new"}
	s := backfill.NewScope(days(3, backfill.Request{}), p)
	r := backfill.NewRecord(first, "old")
	if s.Complete(&r, "two") {
		t.Error("a phase that the season does not have is complete before the phase above it is")
	}
	r = r.Add(at(backfill.Succeeded, 1, 1), backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "b", Attempt: 1, Kind: backfill.Succeeded}})
	if !s.Complete(&r, "two") || len(s.Phases("old")) != 2 {
		t.Error("a phase that the season does not have still holds what comes after it")
	}
	only := backfill.NewScope(days(3, backfill.Request{Phases: []string{"three"}}), chain())
	r = backfill.NewRecord(first, "")
	known := backfill.KnownFunc(func(backfill.Cell) (bool, bool) { return false, true })
	if got := only.Open(&r, &only.Pipeline.Phases[2], known).Start; len(got) != 1 {
		t.Errorf("phase three alone starts %v", got)
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	parts := []backfill.Partition{}
	for i, season := range []string{"a", "a", "a", "b", "b", "b"} {
		parts = append(parts, backfill.Partition{Date: first + backfill.Date(2*i), Season: season})
	}
	b := days(1, backfill.Request{})
	b.Calendar = backfill.NewCalendar(parts)
	b.Dates = b.Calendar
	s := backfill.NewScope(b, chain())
	cases := []struct {
		w    backfill.Window
		from string
		want int
	}{
		{backfill.Window{Phase: "two", Days: 4}, "three", 3},
		{backfill.Window{Phase: "two", Games: 4}, "three", 5},
		{backfill.Window{Phase: "two", Games: 4, SameSeason: true}, "three", 2},
		{backfill.Window{Phase: "two", Days: 100, SameSeason: true}, "three", 2},
		{backfill.Window{Phase: "three", Games: 2}, "three", 2}, // its own phase: earlier dates only
		{backfill.Window{Phase: "three", Days: 4}, "three", 2},
	}
	for _, c := range cases {
		if got := s.Window(c.w, c.from, first+8); len(got) != c.want {
			t.Errorf("%+v covers %v, want %d dates", c.w, got, c.want)
		}
	}
}

func TestBlocked(t *testing.T) {
	t.Parallel()
	s := backfill.NewScope(days(6, backfill.Request{}), chain())
	got := backfill.NewBlocked(s).By(backfill.Cell{Date: first, Phase: "one"})
	// two and three of the same date, and three of the two dates whose window reaches back.
	if len(got) != 4 {
		t.Errorf("blocked: %v", got)
	}
}

func TestCalendarSurvivesJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		gaps := rapid.SliceOfN(rapid.IntRange(1, 40), 0, 60).Draw(t, "gaps")
		d := backfill.Date(rapid.IntRange(-1000, 30000).Draw(t, "start"))
		var parts []backfill.Partition
		for _, g := range gaps {
			d += backfill.Date(g)
			parts = append(parts, backfill.Partition{Date: d, Season: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "season")})
		}
		cal := backfill.NewCalendar(parts)
		b, err := json.Marshal(cal)
		if err != nil {
			t.Fatal(err)
		}
		var back backfill.Calendar
		if err := json.Unmarshal(b, &back); err != nil || back.Len() != cal.Len() {
			t.Fatalf("%d dates came back as %d (%v)", cal.Len(), back.Len(), err)
		}
		for i, p := range cal.All() {
			if back.At(i) != p {
				t.Fatalf("%v came back as %v", p, back.At(i))
			}
		}
	})
}

func TestDates(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "2024-1-1", "2024-13-01", "2023-02-29", "20240101", "2024-01-01T00:00:00Z"} {
		if _, err := backfill.ParseDate(bad); err == nil {
			t.Errorf("%q is taken for a date", bad)
		}
	}
	for _, good := range []string{"1969-12-31", "1970-01-01", "2024-02-29"} {
		if d, err := backfill.ParseDate(good); err != nil || d.String() != good {
			t.Errorf("%q became %s (%v)", good, d, err)
		}
	}
}

func TestAllowance(t *testing.T) {
	t.Parallel()
	proc := func(name string, needs ...string) backfill.Processor {
		p := backfill.Processor{Name: name, Timeout: time.Minute}
		for _, n := range needs {
			p.Needs = append(p.Needs, backfill.Ref{Phase: "x", Processor: n})
		}
		return p
	}
	levels := []backfill.Processor{proc("a"), proc("b", "a"), proc("c", "a", "b")}
	each := backfill.Phase{ID: "x", Trigger: backfill.Trigger{HTTP: &backfill.HTTPTrigger{}}, MaxProcessors: 2, Processors: levels}
	whole := each
	whole.Trigger.HTTP = &backfill.HTTPTrigger{PerPhase: true}
	own := each
	own.Trigger.HTTP = nil
	for _, c := range []struct {
		name  string
		phase *backfill.Phase
		proc  int
		busy  int
		want  time.Duration
	}{
		{"called by itself, admission has waited already", &each, 2, 100, time.Minute},
		{"first in a call for all", &whole, 0, 0, time.Minute},
		{"third in a call for all", &whole, 2, 0, 3 * time.Minute},
		{"started by the platform, alone", &own, 0, 0, time.Minute},
		{"started by the platform, in its second turn", &own, 0, 3, 2 * time.Minute},
		{"started by the platform, far behind", &own, 0, 20, 11 * time.Minute},
	} {
		if got := c.phase.Allowance(&c.phase.Processors[c.proc], c.busy); got != c.want {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	own.MaxProcessors = 0
	if got := own.Allowance(&own.Processors[0], 1000); got != time.Minute {
		t.Errorf("without a number of turns: %s", got)
	}
	// What is on record with the dispatch holds, whoever looks at it later.
	s := backfill.NewScope(days(1, backfill.Request{}), chain())
	r := backfill.NewRecord(first, "",
		backfill.Fact{Key: backfill.Key{Phase: "one", Kind: backfill.Triggered}},
		backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "a", Attempt: 1, Kind: backfill.Dispatched}, Value: backfill.Value{At: epoch, Within: time.Hour}},
		backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "a", Attempt: 1, Kind: backfill.Accepted}, Value: backfill.Value{At: epoch}})
	if f := s.Examine(&r, epoch.Add(59*time.Minute), false); len(f.Expired) != 0 || !f.Next.Equal(epoch.Add(time.Hour)) {
		t.Errorf("%+v", f)
	}
	if f := s.Examine(&r, epoch.Add(time.Hour), false); len(f.Expired) != 1 {
		t.Errorf("%+v", f)
	}
}

func TestCalendarsAreSearchedAsBySight(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var parts []backfill.Partition
		d := first
		for range rapid.IntRange(0, 30).Draw(t, "dates") {
			d += backfill.Date(rapid.IntRange(1, 3).Draw(t, "gap"))
			parts = append(parts, backfill.Partition{Date: d})
		}
		c := backfill.NewCalendar(parts)
		for x := first - 2; x <= d+2; x++ {
			want := slices.IndexFunc(parts, func(p backfill.Partition) bool { return p.Date >= x })
			if want < 0 {
				want = len(parts)
			}
			i, ok := c.Index(x)
			if i != want || ok != (want < len(parts) && parts[want].Date == x) {
				t.Fatalf("%s in %v: %d, %v", x, parts, i, ok)
			}
		}
	})
}
