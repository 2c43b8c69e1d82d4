// Package statetest holds every store to the comments of package state.
package statetest

import (
	"strings"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
)

// Run runs the suite. open makes an empty store, apart from those of all other subtests.
func Run(t *testing.T, open func(*testing.T) state.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, state.Store){
		"creating twice is creating once":              createTwice,
		"a refused backfill is replaced":               replaceRefused,
		"what is not there is not found":               notFound,
		"an update that fails changes nothing":         abort,
		"updates do not lose each other":               concurrentUpdates,
		"a lease has one holder":                       lease,
		"an old epoch is fenced off":                   fenced,
		"a document keeps everything":                  document,
		"the list has the newest first":                list,
		"facts are merged":                             merge,
		"21 completions at once from 4 clients":        crowd,
		"500 facts on one date":                        manyFacts,
		"long messages":                                longMessages,
		"creating dates again merges":                  createDatesAgain,
		"a scan is in order and complete":              scan,
		"wake-up times only fall, until rearmed":       wake,
		"due dates, the most overdue first":            due,
		"rearming loses against a change":              rearm,
		"claims are all or nothing":                    claim,
		"fighting claims have one winner":              fightingClaims,
		"pipelines are kept by version":                pipelines,
		"a watcher sees the last version":              watch,
		"a watcher of one backfill sees only that":     watchOne,
		"a context that has ended stops reads":         ended,
		"names with strange characters":                strangeNames,
		"a closed store fails and closes again":        closed,
		"dates of one backfill are not of another's":   separate,
		"one date's facts do not show on another's":    separateDates,
		"a merge holds what was merged before":         readBack,
		"a fact that is there already changes nothing": idempotent,
		"checks are kept beside runs":                  checks,
		"what is forgotten is gone":                    forget,
		"what has expired is purged":                   purge,
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			s := open(t)
			t.Cleanup(func() { _ = s.Close() })
			test(t, s)
		})
	}
}

var epoch = time.Date(2024, 5, 1, 12, 0, 0, 123456000, time.UTC)

const first = backfill.Date(19700)

func calendar(n int) backfill.Calendar {
	parts := make([]backfill.Partition, n)
	for i := range parts {
		parts[i] = backfill.Partition{Date: first + backfill.Date(i), Season: "2023-24"}
	}
	return backfill.NewCalendar(parts)
}

func a(id string) *backfill.Backfill {
	cal := calendar(3)
	return &backfill.Backfill{
		ID: id, Version: "v1", State: backfill.StateActive, CreatedAt: epoch, Calendar: cal, Dates: cal,
		Request: backfill.Request{ID: id, Pipeline: "p", Seasons: []string{"2023-24"}, Order: backfill.OrderOverlap},
	}
}

func fact(processor string, attempt int, kind backfill.Kind) backfill.Fact {
	return backfill.Fact{
		Key: backfill.Key{Phase: "one", Processor: processor, Attempt: attempt, Kind: kind}, Value: backfill.Value{At: epoch, Message: "m"},
	}
}

// create stores a backfill with n dates.
func create(t *testing.T, s state.Store, id string, n int) {
	t.Helper()
	if _, _, err := s.CreateBackfill(t.Context(), a(id)); err != nil {
		t.Fatal(err)
	}
	records := make([]backfill.Record, n)
	for i := range records {
		records[i] = backfill.NewRecord(first+backfill.Date(i), "2023-24")
	}
	must(t, s.CreateDates(t.Context(), id, records))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, what string, err error, k fault.Kind) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Errorf("%s: %v is not of kind %v", what, err, k)
	}
}

func date(t *testing.T, s state.Store, id string, d backfill.Date) backfill.Record {
	t.Helper()
	r, err := s.Date(t.Context(), id, d)
	must(t, err)
	return r
}

// add merges facts into a date of backfill b.
func add(t *testing.T, s state.Store, d backfill.Date, facts ...backfill.Fact) backfill.Record {
	t.Helper()
	r, err := s.Merge(t.Context(), "b", d, time.Time{}, facts...)
	must(t, err)
	return r
}
