package backfill_test

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"sluice.dev/pkg/backfill"
)

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

const first = backfill.Date(19700)

// chain is a pipeline of three phases: a and b, then c and d where d needs c, then e with a window.
func chain() *backfill.Pipeline {
	proc := func(name string) backfill.Processor {
		return backfill.Processor{
			Name: name, Timeout: time.Minute, Attempts: 3, Backoff: backfill.Backoff{Initial: time.Second, Max: time.Minute},
		}
	}
	call := backfill.Trigger{HTTP: &backfill.HTTPTrigger{URL: "http://x"}}
	d, e := proc("d"), proc("e")
	d.Needs = []backfill.Ref{{Phase: "two", Processor: "c"}}
	e.Windows = []backfill.Window{{Phase: "two", Days: 2}}
	return &backfill.Pipeline{Name: "chain", Phases: []backfill.Phase{
		{ID: "one", Trigger: call, Processors: []backfill.Processor{proc("a"), proc("b")}},
		{ID: "two", After: []string{"one"}, Trigger: call, Processors: []backfill.Processor{proc("c"), d}},
		{ID: "three", After: []string{"two"}, Trigger: call, Processors: []backfill.Processor{e}},
	}}
}

// days is a backfill of n consecutive dates.
func days(n int, req backfill.Request) *backfill.Backfill {
	parts := make([]backfill.Partition, n)
	for i := range parts {
		parts[i].Date = first + backfill.Date(i)
	}
	cal := backfill.NewCalendar(parts)
	return &backfill.Backfill{ID: "b", Request: req, Calendar: cal, Dates: cal}
}

var kinds = []backfill.Kind{
	backfill.Dispatched, backfill.Accepted, backfill.Succeeded, backfill.Partial, backfill.Failed, backfill.Rejected, backfill.ReportedSkip,
}

// fact draws something that could have happened to a processor of the chain, or to one that it does not have.
func fact() *rapid.Generator[backfill.Fact] {
	return rapid.Custom(func(t *rapid.T) backfill.Fact {
		ref := rapid.SampledFrom([][2]string{
			{"one", "a"}, {"one", "b"}, {"two", "c"}, {"two", "d"}, {"three", "e"}, {"one", "stranger"}, {"zero", "a"},
		}).Draw(t, "ref")
		f := backfill.Fact{Key: backfill.Key{Phase: ref[0], Processor: ref[1]}}
		switch rapid.IntRange(0, 9).Draw(t, "sort") {
		case 0:
			f.Kind = rapid.SampledFrom([]backfill.Kind{backfill.Skipped, backfill.Waived}).Draw(t, "kind")
		case 1:
			f.Kind, f.Attempt = backfill.Retried, rapid.IntRange(1, 4).Draw(t, "after")
		default:
			f.Kind, f.Attempt = rapid.SampledFrom(kinds).Draw(t, "kind"), rapid.IntRange(1, 4).Draw(t, "attempt")
		}
		f.At = epoch.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "at")) * time.Second)
		f.Message = fmt.Sprint("m", rapid.IntRange(0, 3).Draw(t, "message"))
		return f
	})
}

func facts() *rapid.Generator[[]backfill.Fact] { return rapid.SliceOfN(fact(), 0, 40) }
