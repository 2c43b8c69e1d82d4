package dispatch

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
)

// Work that was started again is on record as taken: a dispatcher that takes over waits for it instead of asking again.
func TestWorkStartedAgainIsOnRecord(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if got := r.Header.Get("Traceparent"); len(got) != 55 { // also without a tracer
			t.Errorf("traceparent %q", got)
		}
	}))
	t.Cleanup(server.Close)
	scrape := backfill.Trigger{HTTP: &backfill.HTTPTrigger{URL: server.URL, Body: "{}", Timeout: time.Second}}
	proc := func(name string) []backfill.Processor {
		return []backfill.Processor{{Name: name, Attempts: 3, Timeout: time.Minute, Backoff: backfill.Backoff{Initial: time.Second, Max: time.Second}}}
	}
	p := &backfill.Pipeline{Name: "p", Phases: []backfill.Phase{
		{ID: "scrape", Trigger: scrape, Processors: proc("s")},
		{ID: "raw", After: []string{"scrape"}, Processors: proc("r"), OnTimeout: &backfill.Retrigger{Phase: "scrape", Match: map[string]string{"s": "r"}}},
	}}
	fact := func(phase, processor string, kind backfill.Kind, attempt int) backfill.Fact {
		return backfill.Fact{
			Key:   backfill.Key{Phase: phase, Processor: processor, Kind: kind, Attempt: attempt},
			Value: backfill.Value{At: time.Date(2024, 5, 1, 11, 0, 0, 0, time.UTC)},
		}
	}
	x := watch(t, p, fact("scrape", "", backfill.Triggered, 0), fact("scrape", "s", backfill.Succeeded, 1),
		fact("raw", "", backfill.Triggered, 0), fact("raw", "r", backfill.Dispatched, 1), fact("raw", "r", backfill.Failed, 1))
	dr := x.drive("b")
	rec, err := x.Store.Date(t.Context(), "b", firstDay)
	if err != nil {
		t.Fatal(err)
	}
	jobs, waits := dr.scope.Jobs(firstDay, dr.scope.Examine(&rec, x.now, false).Ready)
	if len(jobs) != 1 || len(waits) != 0 || jobs[0].Attempts[0] != 2 {
		t.Fatalf("jobs %+v, waits %+v", jobs, waits)
	}
	x.start(dr, jobs)
	x.calls.Wait()
	if rec, err = x.Store.Date(t.Context(), "b", firstDay); err != nil {
		t.Fatal(err)
	}
	taken := backfill.Key{Phase: "raw", Processor: "r", Kind: backfill.Accepted, Attempt: 2}
	if calls.Load() != 1 || !rec.Has(taken) {
		t.Fatalf("%d calls, on record: %v", calls.Load(), rec.Facts())
	}
	if again := dr.scope.Examine(&rec, x.now, true); len(again.Ready) != 0 {
		t.Errorf("after a restart: %+v", again)
	}
}
