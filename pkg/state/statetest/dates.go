package statetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
)

func merge(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	full := backfill.Fact{
		Key: backfill.Key{Phase: "one", Processor: "p", Attempt: 2, Kind: backfill.Failed},
		Value: backfill.Value{
			At: epoch, Message: "it broke", By: "somebody", Records: 5, BytesBilled: 1 << 40, Within: time.Hour, StartedAt: epoch.Add(-time.Minute), FinishedAt: epoch,
			CorrelationID: "c",
		},
	}
	add(t, s, first, fact("p", 1, backfill.Dispatched), full)
	add(t, s, first, backfill.Fact{Key: backfill.Key{Phase: "one", Kind: backfill.Triggered}, Value: backfill.Value{At: epoch}},
		fact("q", 0, backfill.Skipped))
	r := date(t, s, "b", first)
	if r.Len() != 4 || r.Season != "2023-24" || r.Date != first {
		t.Fatalf("%+v", r)
	}
	for _, f := range r.Facts() {
		if f.Key == full.Key && f.Value != full.Value {
			t.Errorf("%+v became %+v", full, f)
		}
	}
}

func idempotent(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	add(t, s, first, fact("p", 1, backfill.Succeeded))
	before := date(t, s, "b", first)
	for range 3 {
		add(t, s, first, fact("p", 1, backfill.Succeeded))
	}
	if after := date(t, s, "b", first); after.Len() != before.Len() || after.Len() != 1 {
		t.Errorf("%d facts became %d", before.Len(), after.Len())
	}
}

// crowd: every processor of a phase completes at once, and one of the callers must see all of them.
func crowd(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	var wg sync.WaitGroup
	var mu sync.Mutex
	most := 0
	for client := range 4 {
		for i := client; i < 21; i += 4 {
			wg.Go(func() {
				r, err := s.Merge(t.Context(), "b", first, time.Time{}, fact(fmt.Sprint("p", i), 1, backfill.Succeeded))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				most = max(most, r.Len())
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	if most != 21 {
		t.Errorf("nobody saw more than %d of 21 completions", most)
	}
}

func readBack(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	for i := range 30 {
		if r := add(t, s, first, fact(fmt.Sprint("p", i), 1, backfill.Succeeded)); r.Len() != i+1 {
			t.Fatalf("after %d merges the record holds %d facts", i+1, r.Len())
		}
	}
}

func manyFacts(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	var facts []backfill.Fact
	for i := range 100 {
		for _, k := range []backfill.Kind{backfill.Dispatched, backfill.Accepted, backfill.Failed, backfill.Retried, backfill.Succeeded} {
			facts = append(facts, fact(fmt.Sprint("processor_", i), 1, k))
		}
	}
	for len(facts) > 0 {
		add(t, s, first, facts[:50]...)
		facts = facts[50:]
	}
	if r := date(t, s, "b", first); r.Len() != 500 {
		t.Errorf("%d facts", r.Len())
	}
}

// longMessages come near to the 1 MiB that a document may have in Firestore.
func longMessages(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	for i := range 9 {
		f := fact(fmt.Sprint("p", i), 1, backfill.Failed)
		f.Message = strings.Repeat("é", 50_000)
		add(t, s, first, f)
	}
	r := date(t, s, "b", first)
	for _, f := range r.Facts() {
		if len(f.Message) != 100_000 {
			t.Errorf("a message of %d bytes", len(f.Message))
		}
	}
	if r.Len() != 9 {
		t.Errorf("%d facts", r.Len())
	}
}

func createDatesAgain(t *testing.T, s state.Store) {
	create(t, s, "b", 2)
	add(t, s, first, fact("p", 1, backfill.Succeeded))
	must(t, s.CreateDates(t.Context(), "b", []backfill.Record{
		backfill.NewRecord(first, "2023-24", fact("q", 0, backfill.Skipped)), backfill.NewRecord(first+2, "2023-24", fact("r", 0, backfill.Skipped)),
	}))
	for i, want := range []int{2, 0, 1} {
		if r := date(t, s, "b", first+backfill.Date(i)); r.Len() != want {
			t.Errorf("date %d has %d facts, not %d", i, r.Len(), want)
		}
	}
}

func scan(t *testing.T, s state.Store) {
	const n = 1100
	create(t, s, "b", n)
	add(t, s, first+1000, fact("p", 1, backfill.Succeeded))
	next := first + 50
	must(t, s.ScanDates(t.Context(), "b", first+50, first+n-2, func(r backfill.Record) error {
		want := 0
		if r.Date == first+1000 {
			want = 1
		}
		if r.Date != next || r.Len() != want || r.Season != "2023-24" {
			return fmt.Errorf("%s with %d facts, not %s with %d", r.Date, r.Len(), next, want)
		}
		next++
		return nil
	}))
	if next != first+n-1 {
		t.Errorf("the scan ended before %s", next)
	}
	enough, calls := errors.New("enough"), 0
	err := s.ScanDates(t.Context(), "b", first, first+n, func(backfill.Record) error { calls++; return enough })
	if !errors.Is(err, enough) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	must(t, s.ScanDates(t.Context(), "nobody", first, first+n, func(backfill.Record) error { return errors.New("a date of nobody's") }))
}

func wake(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	merge := func(at time.Time) backfill.Record {
		r, err := s.Merge(t.Context(), "b", first, at)
		must(t, err)
		return r
	}
	merge(epoch.Add(time.Hour))
	merge(epoch.Add(2 * time.Hour))
	if r := merge(time.Time{}); !r.WakeAt.Equal(epoch.Add(time.Hour)) {
		t.Errorf("wakes at %s", r.WakeAt)
	}
	merge(epoch)
	if r := date(t, s, "b", first); !r.WakeAt.Equal(epoch) {
		t.Errorf("wakes at %s", r.WakeAt)
	}
}

func due(t *testing.T, s state.Store) {
	create(t, s, "b", 10)
	for i := range 9 {
		_, err := s.Merge(t.Context(), "b", first+backfill.Date(i), epoch.Add(time.Duration((i*5)%9)*time.Minute))
		must(t, err)
	}
	got, err := s.Due(t.Context(), "b", epoch.Add(4*time.Minute), 3)
	must(t, err)
	// (i*5)%9 is 0, 1 and 2 for i = 0, 2 and 4.
	if fmt.Sprint(got) != fmt.Sprint([]backfill.Date{first, first + 2, first + 4}) {
		t.Errorf("due: %v", got)
	}
	if all, err := s.Due(t.Context(), "b", epoch.Add(time.Hour), 100); err != nil || len(all) != 9 {
		t.Errorf("due: %v, %v", all, err)
	}
	if none, err := s.Due(t.Context(), "b", epoch.Add(-time.Second), 100); err != nil || len(none) != 0 {
		t.Errorf("due: %v, %v", none, err)
	}
}

func rearm(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	seen, err := s.Merge(t.Context(), "b", first, epoch, fact("p", 1, backfill.Dispatched))
	must(t, err)
	if ok, err := s.Rearm(t.Context(), "b", seen, epoch.Add(time.Hour)); err != nil || !ok {
		t.Fatalf("rearmed %t, %v", ok, err)
	}
	later := date(t, s, "b", first)
	if !later.WakeAt.Equal(epoch.Add(time.Hour)) {
		t.Errorf("wakes at %s", later.WakeAt)
	}
	add(t, s, first, fact("p", 1, backfill.Failed))
	if ok, err := s.Rearm(t.Context(), "b", later, time.Time{}); err != nil || ok {
		t.Errorf("rearmed %t after a change, %v", ok, err)
	}
	if ok, err := s.Rearm(t.Context(), "b", date(t, s, "b", first), time.Time{}); err != nil || !ok {
		t.Errorf("rearmed %t, %v", ok, err)
	}
	if r := date(t, s, "b", first); !r.WakeAt.IsZero() || r.Len() != 2 {
		t.Errorf("%+v", r)
	}
	if due, err := s.Due(t.Context(), "b", epoch.Add(time.Hour*24*365), 10); err != nil || len(due) != 0 {
		t.Errorf("due: %v, %v", due, err)
	}
}

func separate(t *testing.T, s state.Store) {
	create(t, s, "b", 2)
	create(t, s, "b-2", 2)
	add(t, s, first, fact("p", 1, backfill.Succeeded))
	if r := date(t, s, "b-2", first); r.Len() != 0 {
		t.Errorf("%+v", r.Facts())
	}
}

func separateDates(t *testing.T, s state.Store) {
	create(t, s, "b", 3)
	add(t, s, first+1, fact("p", 1, backfill.Succeeded))
	for _, d := range []backfill.Date{first, first + 2} {
		if r := date(t, s, "b", d); r.Len() != 0 {
			t.Errorf("%s: %+v", d, r.Facts())
		}
	}
}

func claim(t *testing.T, s state.Store) {
	ctx := t.Context()
	dates := []backfill.Date{first, first + 1, first + 2}
	must(t, s.Claim(ctx, "p", "one", dates))
	must(t, s.Claim(ctx, "p", "one", dates[:2]))
	must(t, s.Claim(ctx, "other", "two", dates))
	err := s.Claim(ctx, "p", "two", []backfill.Date{first - 1, first + 2, first + 3})
	wantKind(t, "a date that another owns", err, fault.Conflict)
	if err == nil || !strings.Contains(err.Error(), "one") || !strings.Contains(err.Error(), (first+2).String()) {
		t.Errorf("the error does not say whose and which: %v", err)
	}
	for _, d := range []backfill.Date{first - 1, first + 3} {
		_, err := s.Owner(ctx, "p", d)
		wantKind(t, "half a claim", err, fault.NotFound)
	}
	if owner, err := s.Owner(ctx, "p", first+1); err != nil || owner != "one" {
		t.Errorf("owner %q, %v", owner, err)
	}
	must(t, s.Unclaim(ctx, "p", "one"))
	must(t, s.Unclaim(ctx, "p", "one"))
	must(t, s.Claim(ctx, "p", "two", dates))
	if owner, err := s.Owner(ctx, "other", first); err != nil || owner != "two" {
		t.Errorf("owner %q, %v", owner, err)
	}
}

func fightingClaims(t *testing.T, s state.Store) {
	var dates []backfill.Date
	for i := range 60 {
		dates = append(dates, first+backfill.Date(i))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var winners []string
	for i := range 4 {
		wg.Go(func() {
			id := fmt.Sprint("fighter-", i)
			if err := s.Claim(t.Context(), "p", id, dates); err == nil {
				mu.Lock()
				winners = append(winners, id)
				mu.Unlock()
			} else if !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(winners) != 1 {
		t.Fatalf("%v won", winners)
	}
	for _, d := range dates {
		if owner, err := s.Owner(t.Context(), "p", d); err != nil || owner != winners[0] {
			t.Errorf("%s belongs to %q, %v", d, owner, err)
		}
	}
}

// follow watches a backfill until the test ends.
func follow(t *testing.T, s state.Store, id string) func() (*backfill.Backfill, map[backfill.Date]int) {
	t.Helper()
	var mu sync.Mutex
	var doc *backfill.Backfill
	facts := map[backfill.Date]int{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Watch(ctx, id, func(c state.Change) {
			mu.Lock()
			defer mu.Unlock()
			if c.Backfill != nil {
				doc = c.Backfill
			} else {
				facts[c.Record.Date] = c.Record.Len()
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return func() (*backfill.Backfill, map[backfill.Date]int) {
		mu.Lock()
		defer mu.Unlock()
		out := map[backfill.Date]int{}
		for d, n := range facts {
			out[d] = n
		}
		return doc, out
	}
}

func watch(t *testing.T, s state.Store) {
	create(t, s, "b", 3)
	sees(t, s, follow(t, s, "b"), 0)
}

// Interruption holds a driver that watches over a connection to going on when that breaks: interrupt breaks it, and
// lets it be made again. Drivers without one, such as the embedded, have nothing to interrupt, so this is no part
// of Run.
func Interruption(t *testing.T, s state.Store, interrupt func()) {
	t.Helper()
	create(t, s, "b", 3)
	seen := follow(t, s, "b")
	n := sees(t, s, seen, 0)
	interrupt()
	sees(t, s, seen, n)
}

// sees changes a backfill and one of its dates until the watcher has seen the last version, n changes and more.
func sees(t *testing.T, s state.Store, seen func() (*backfill.Backfill, map[backfill.Date]int), n int) int {
	t.Helper()
	before := n
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		// Watch may take a moment to begin: changes go on until it shows that it sees them.
		n++
		add(t, s, first+1, fact(fmt.Sprint("p", n), 1, backfill.Succeeded))
		_, err := s.UpdateBackfill(t.Context(), "b", 0, func(b *backfill.Backfill) error { b.Progress.Attempts = n; return nil })
		must(t, err)
		if doc, facts := seen(); doc != nil && doc.Progress.Attempts > before && facts[first+1] > before {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the watcher sees nothing")
		}
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if doc, facts := seen(); doc.Progress.Attempts == n && facts[first+1] == n {
			return n
		}
		if time.Now().After(deadline) {
			t.Fatal("the watcher does not see the last version")
		}
	}
}

func watchOne(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	create(t, s, "c", 1)
	seen := follow(t, s, "b")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for _, id := range []string{"c", "b"} {
			_, err := s.UpdateBackfill(t.Context(), id, 0, func(b *backfill.Backfill) error { b.Progress.Attempts++; return nil })
			must(t, err)
		}
		doc, _ := seen()
		if doc != nil && doc.ID != "b" {
			t.Fatalf("the watcher of b sees %s", doc.ID)
		}
		if doc != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the watcher sees nothing")
		}
	}
}

func ended(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.ListBackfills(ctx); err == nil {
		t.Error("ListBackfills goes on")
	}
	if err := s.ScanDates(ctx, "b", first, first+10, func(backfill.Record) error { return nil }); err == nil {
		t.Error("ScanDates goes on")
	}
	if _, err := s.Merge(ctx, "b", first, time.Time{}, fact("p", 1, backfill.Failed)); err == nil {
		t.Error("Merge goes on")
	}
	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := s.Due(past, "b", epoch, 1); err == nil {
		t.Error("Due goes on past its deadline")
	}
}
