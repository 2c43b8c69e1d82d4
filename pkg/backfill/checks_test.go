package backfill

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// checkedScope is two dates with phases one (x), two (y) and three (z, by its needs), where one has a blocking check.
func checkedScope() *Scope {
	p := &Pipeline{Name: "p", Phases: []Phase{
		{ID: "one", Processors: []Processor{{Name: "x", Attempts: 1}}},
		{ID: "two", After: []string{"one"}, Processors: []Processor{{Name: "y", Attempts: 1, Windows: []Window{{Phase: "one", Games: 1}}}}},
		{ID: "three", After: []string{"one"}, GateNeeds: true, Processors: []Processor{{Name: "z", Attempts: 1, Needs: []Ref{{"one", "x"}}}}},
	}, Checks: []Check{{Name: "sane", After: "one", Blocking: true}, {Name: "loose", After: "one"}}}
	cal := NewCalendar([]Partition{{Date: 10}, {Date: 11}})
	return NewScope(&Backfill{ID: "b", Dates: cal, Calendar: cal}, p)
}

func TestBlockingChecksHoldTheNextPhase(t *testing.T) {
	t.Parallel()
	s := checkedScope()
	ref := s.Pipeline.Checks[0].Ref()
	at := time.Unix(0, 0)
	fact := func(phase, processor string, attempt int, k Kind) Fact {
		return Fact{Key{phase, processor, attempt, k}, Value{At: at, Message: "why"}}
	}
	done := fact("one", "x", 1, Succeeded)
	all := KnownFunc(func(Cell) (bool, bool) { return true, true })
	for name, c := range map[string]struct {
		facts    []Fact
		two      string // what may start of phase two, and checks that must be run first
		three    string
		failures int
	}{
		"not complete":         {nil, "[] []", "[] []", 0},
		"not checked":          {[]Fact{done}, "[] [one]", "[z] []", 0},
		"passed":               {[]Fact{done, fact("one", ref.Processor, 1, CheckPassed)}, "[y] []", "[z] []", 0},
		"failed":               {[]Fact{done, fact("one", ref.Processor, 1, CheckFailed)}, "[] []", "[] []", 1},
		"in doubt":             {[]Fact{done, fact("one", ref.Processor, 1, CheckFailed), fact("one", ref.Processor, 1, CheckPassed)}, "[] []", "[] []", 1},
		"tried again":          {[]Fact{done, fact("one", ref.Processor, 1, CheckFailed), fact("one", ref.Processor, 1, Retried)}, "[] [one]", "[z] []", 0},
		"passed the next time": {[]Fact{done, fact("one", ref.Processor, 1, CheckFailed), fact("one", ref.Processor, 1, Retried), fact("one", ref.Processor, 2, CheckPassed)}, "[y] []", "[z] []", 0},
		"waived":               {[]Fact{done, fact("one", ref.Processor, 1, CheckFailed), fact("one", ref.Processor, 0, Waived)}, "[y] []", "[z] []", 0},
	} {
		for range 2 { // the order of facts does not matter
			slices.Reverse(c.facts)
			r := NewRecord(10, "", c.facts...)
			for phase, want := range map[string]string{"two": c.two, "three": c.three} {
				ph, _ := s.Pipeline.Phase(phase)
				o := s.Open(&r, ph, all)
				if got := fmt.Sprint(o.Start, o.Checks); got != want {
					t.Errorf("%s: %s opens %s, not %s", name, phase, got, want)
				}
			}
			if f := s.Failures(&r); len(f) != c.failures || (len(f) == 1 && (f[0].Ref != ref || f[0].LastError != "why" || f[0].State != RunExhausted)) {
				t.Errorf("%s: failures %+v", name, f)
			}
		}
	}
}

func TestAFailedCheckHoldsOnlyItsOwnDate(t *testing.T) {
	t.Parallel()
	s := checkedScope()
	one := Cell{10, "one"}
	if got := fmt.Sprint(NewBlocked(s).ByCheck(one)); got != fmt.Sprint([]Cell{{10, "two"}, {10, "three"}}) {
		t.Errorf("the check holds %s", got)
	}
	if got := NewBlocked(s).By(one); !slices.Contains(got, Cell{11, "two"}) {
		t.Errorf("the phase itself holds %v", got)
	}
}

func TestBuiltAndOutputs(t *testing.T) {
	t.Parallel()
	p := &Pipeline{Partition: PartitionSource{Column: "d"}, History: &HistorySource{Table: "h.runs", Date: "day", Phase: "phase"}, Phases: []Phase{
		{ID: "one", Outputs: []string{"a.one"}, Processors: []Processor{{Name: "x"}}},
		{ID: "two", After: []string{"one"}, Outputs: []string{"a.two", "a.more"}, Processors: []Processor{{Name: "y"}}},
		{ID: "apart", Processors: []Processor{{Name: "w"}}},
		{ID: "three", After: []string{"apart"}, Processors: []Processor{{Name: "z", Windows: []Window{{Phase: "two", Games: 1}}}}},
	}}
	if got := p.Built([]string{"one"}); !slices.Equal(got, []string{"two", "three"}) {
		t.Errorf("on one are built %v", got)
	}
	var got []string
	for _, x := range p.Outputs([]string{"one", "two"}) {
		got = append(got, x.Table+" by "+x.Column+" "+fmt.Sprint(x.Phases))
	}
	if want := []string{"a.two by d []", "a.more by d []", "a.one by d []", "h.runs by day [one two]"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
