package scenario_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"sluice.dev/services/sluice/platform"
)

// processors of each phase, by the endpoint that starts the phase; phase 2 has none.
var paths = []string{"/scrape", "", "/process", "/process-date"}

// assertOrder checks with the platform's own log that no phase of a date was called before every processor
// of the phases that it depends on, on every date that it depends on, had finished.
func assertOrder(t testing.TB, p *platform.Platform, dates []string) {
	t.Helper()
	names := platform.Processors()
	done := map[[2]string]time.Time{}
	for _, f := range p.Finished() {
		if k := [2]string{f.Processor, f.Date}; done[k].IsZero() {
			done[k] = f.At
		}
	}
	first := map[[2]string]time.Time{} // by path and date
	for _, c := range p.Calls() {
		if k := [2]string{c.Path, c.Date}; first[k].IsZero() {
			first[k] = c.At
		}
	}
	need := func(phase int, date string, by time.Time, path, of string) {
		for _, proc := range names[phase] {
			if at := done[[2]string{proc, date}]; at.IsZero() || at.After(by) {
				t.Errorf("%s of %s was called before %s of %s had finished", path, of, proc, date)
			}
		}
	}
	for i, date := range dates {
		for phase, path := range paths {
			at := first[[2]string{path, date}]
			if at.IsZero() || phase == 0 {
				continue
			}
			before := i
			switch phase {
			case 2: // 30 days of raw box scores
				for before > 0 && daysBetween(t, dates[before-1], date) <= 30 {
					before--
				}
			case 3: // ten games of analytics
				before = max(0, i-10)
			}
			for _, d := range dates[before : i+1] {
				need(phase-1, d, at, path, date)
			}
		}
	}
}

func daysBetween(t testing.TB, from, to string) int {
	t.Helper()
	a, err := time.Parse(time.DateOnly, from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := time.Parse(time.DateOnly, to)
	if err != nil {
		t.Fatal(err)
	}
	return int(b.Sub(a).Hours() / 24)
}

// assertAllDone checks that every processor of phases 1 to 4 finished on every date.
func assertAllDone(t testing.TB, p *platform.Platform, dates []string) {
	t.Helper()
	done := map[[2]string]bool{}
	for _, f := range p.Finished() {
		done[[2]string{f.Processor, f.Date}] = true
	}
	for _, date := range dates {
		for _, names := range platform.Processors() {
			for _, proc := range names {
				if !done[[2]string{proc, date}] {
					t.Errorf("%s never finished %s", proc, date)
				}
			}
		}
	}
}

// assertNoneAgain checks that no processor was called again after it had succeeded. The only excuse is that
// the process ended within a moment of the success, too soon to record it: then the call may be repeated,
// under the same Idempotency-Key.
func assertNoneAgain(t testing.TB, p *platform.Platform, ends []time.Time, moment time.Duration) {
	t.Helper()
	for _, a := range calledAgain(p, ends, moment) {
		t.Errorf("%s was called %s after it had succeeded", a.key, a.at.Sub(a.done))
	}
}

// again is a call of what had succeeded.
type again struct {
	key      string
	done, at time.Time
}

func calledAgain(p *platform.Platform, ends []time.Time, moment time.Duration) []again {
	var out []again
	done := map[[2]string]time.Time{}
	for _, f := range p.Finished() {
		if k := [2]string{f.Processor, f.Date}; done[k].IsZero() {
			done[k] = f.At
		}
	}
	keys, repeated := map[string]bool{}, map[string]bool{}
	for _, c := range p.Calls() {
		processors := c.Processors
		if name := strings.Split(c.Key, "/")[3]; name != "*" {
			processors = []string{name}
		}
		var last time.Time // when the last of them had succeeded
		over := true
		for _, proc := range processors {
			at := done[[2]string{proc, c.Date}]
			over = over && !at.IsZero() && at.Before(c.At)
			if at.After(last) {
				last = at
			}
		}
		run := strings.Join(strings.Split(c.Key, "/")[:4], "/")
		if keys[c.Key] && slices.ContainsFunc(ends, func(e time.Time) bool { return e.After(last.Add(-moment)) && e.Sub(last) < moment }) {
			repeated[run] = true // should the repetition fail, more attempts follow
		}
		if over && !repeated[run] {
			out = append(out, again{c.Key, last, c.At})
		}
		keys[c.Key] = true
	}
	return out
}
