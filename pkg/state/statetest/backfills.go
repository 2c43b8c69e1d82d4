package statetest

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
)

func createTwice(t *testing.T, s state.Store) {
	_, created, err := s.CreateBackfill(t.Context(), a("b"))
	if err != nil || !created {
		t.Fatalf("created %t, %v", created, err)
	}
	other := a("b")
	other.Version = "v2"
	there, created, err := s.CreateBackfill(t.Context(), other)
	if err != nil || created || there.Version != "v1" {
		t.Errorf("created %t %+v, %v", created, there, err)
	}
}

func replaceRefused(t *testing.T, s state.Store) {
	bad := a("b")
	bad.State, bad.Faults = backfill.StateRefused, []string{"no"}
	if _, _, err := s.CreateBackfill(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	if _, created, err := s.CreateBackfill(t.Context(), a("b")); err != nil || !created {
		t.Errorf("created %t, %v", created, err)
	}
	if b, err := s.Backfill(t.Context(), "b"); err != nil || b.State != backfill.StateActive || len(b.Faults) != 0 {
		t.Errorf("%+v, %v", b, err)
	}
}

func notFound(t *testing.T, s state.Store) {
	ctx := t.Context()
	_, err := s.Backfill(ctx, "x")
	wantKind(t, "Backfill", err, fault.NotFound)
	_, err = s.UpdateBackfill(ctx, "x", 0, func(*backfill.Backfill) error { return nil })
	wantKind(t, "UpdateBackfill", err, fault.NotFound)
	_, err = s.Acquire(ctx, "x", "me", epoch, time.Minute)
	wantKind(t, "Acquire", err, fault.NotFound)
	_, err = s.Date(ctx, "x", first)
	wantKind(t, "Date", err, fault.NotFound)
	_, err = s.Owner(ctx, "p", first)
	wantKind(t, "Owner", err, fault.NotFound)
	_, err = s.Pipeline(ctx, "p", "v")
	wantKind(t, "Pipeline", err, fault.NotFound)
	must(t, s.Release(ctx, "x", "me"))
	create(t, s, "b", 1)
	_, err = s.Date(ctx, "b", first+1)
	wantKind(t, "Date of a backfill", err, fault.NotFound)
	_, err = s.Merge(ctx, "b", first+1, epoch, fact("p", 1, backfill.Dispatched))
	wantKind(t, "Merge", err, fault.NotFound)
	if all, err := s.ListBackfills(ctx); err != nil || len(all) != 1 {
		t.Errorf("%d backfills, %v", len(all), err)
	}
}

func abort(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	no := errors.New("no")
	_, err := s.UpdateBackfill(t.Context(), "b", 0, func(b *backfill.Backfill) error { b.State = backfill.StatePaused; return no })
	if !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	if b, err := s.Backfill(t.Context(), "b"); err != nil || b.State != backfill.StateActive {
		t.Errorf("%+v, %v", b, err)
	}
}

func concurrentUpdates(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			_, err := s.UpdateBackfill(t.Context(), "b", 0, func(b *backfill.Backfill) error { b.Progress.Attempts++; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b, err := s.Backfill(t.Context(), "b"); err != nil || b.Progress.Attempts != 10 {
		t.Errorf("%d of 10 updates, %v", b.Progress.Attempts, err)
	}
}

func lease(t *testing.T, s state.Store) {
	ctx := t.Context()
	create(t, s, "b", 1)
	one, err := s.Acquire(ctx, "b", "one", epoch, time.Minute)
	if err != nil || one.Holder != "one" || one.Epoch < 1 || !one.Expires.Equal(epoch.Add(time.Minute)) {
		t.Fatalf("%+v, %v", one, err)
	}
	_, err = s.Acquire(ctx, "b", "two", epoch.Add(59*time.Second), time.Minute)
	wantKind(t, "a lease that another holds", err, fault.Conflict)
	again, err := s.Acquire(ctx, "b", "one", epoch.Add(30*time.Second), time.Minute)
	if err != nil || again.Epoch != one.Epoch || !again.Expires.Equal(epoch.Add(90*time.Second)) {
		t.Errorf("renewed: %+v, %v", again, err)
	}
	two, err := s.Acquire(ctx, "b", "two", epoch.Add(2*time.Minute), time.Minute)
	if err != nil || two.Epoch <= one.Epoch {
		t.Errorf("after it expired: %+v, %v", two, err)
	}
	must(t, s.Release(ctx, "b", "one")) // not the holder any more
	_, err = s.Acquire(ctx, "b", "one", epoch.Add(2*time.Minute), time.Minute)
	wantKind(t, "released by somebody else", err, fault.Conflict)
	must(t, s.Release(ctx, "b", "two"))
	back, err := s.Acquire(ctx, "b", "one", epoch.Add(2*time.Minute), time.Minute)
	if err != nil || back.Epoch <= two.Epoch {
		t.Errorf("after a release: %+v, %v", back, err)
	}
	// Two fight for a lease that is free: one wins.
	must(t, s.Release(ctx, "b", "one"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range 4 {
		wg.Go(func() {
			if _, err := s.Acquire(ctx, "b", fmt.Sprint("fighter-", i), epoch.Add(3*time.Minute), time.Minute); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			} else if !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d won the lease", won)
	}
}

func fenced(t *testing.T, s state.Store) {
	ctx := t.Context()
	create(t, s, "b", 1)
	old, err := s.Acquire(ctx, "b", "one", epoch, time.Minute)
	must(t, err)
	now, err := s.Acquire(ctx, "b", "two", epoch.Add(time.Hour), time.Minute)
	must(t, err)
	write := func(epoch int64) error {
		_, err := s.UpdateBackfill(ctx, "b", epoch, func(b *backfill.Backfill) error {
			b.Lease = backfill.Lease{Holder: "thief", Epoch: 99}
			b.Progress.Attempts++
			return nil
		})
		return err
	}
	wantKind(t, "the loser's late write", write(old.Epoch), fault.Fenced)
	must(t, write(now.Epoch))
	b, err := s.Backfill(ctx, "b")
	if err != nil || b.Progress.Attempts != 1 || b.Lease.Holder != "two" || b.Lease.Epoch != now.Epoch {
		t.Errorf("%+v %+v, %v", b.Progress, b.Lease, err)
	}
}

func document(t *testing.T, s state.Store) {
	want := a("b")
	start, end := first, first+2
	want.Request.Start, want.Request.End, want.Request.Seasons = &start, &end, nil
	want.Request.Limits = map[string]backfill.Limits{"one": {MaxDates: 3}}
	want.Request.AcceptGaps = []backfill.Span{{From: first, To: first + 1}}
	want.Request.BudgetUSD, want.Request.Reason, want.Notices = 1.5, "why", []string{"a note"}
	want.Progress = backfill.Progress{
		Phases: []backfill.PhaseProgress{{ID: "one", DatesComplete: 1, Tally: backfill.Tally{Total: 3, Succeeded: 2, InFlight: 1}}}, DatesTotal: 3,
	}
	_, _, err := s.CreateBackfill(t.Context(), want)
	must(t, err)
	got, err := s.Backfill(t.Context(), "b")
	must(t, err)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v became %+v", want, got)
	}
}

func list(t *testing.T, s state.Store) {
	for i := range 30 {
		b := a(fmt.Sprintf("b-%02d", i))
		b.CreatedAt = epoch.Add(time.Duration((i*7)%30) * time.Second)
		_, _, err := s.CreateBackfill(t.Context(), b)
		must(t, err)
	}
	all, err := s.ListBackfills(t.Context())
	must(t, err)
	if len(all) != 30 {
		t.Fatalf("%d backfills", len(all))
	}
	for i := 1; i < len(all); i++ {
		if all[i].CreatedAt.After(all[i-1].CreatedAt) {
			t.Errorf("%s comes after %s", all[i].ID, all[i-1].ID)
		}
	}
}

func pipelines(t *testing.T, s state.Store) {
	want := &backfill.Pipeline{Name: "p", Phases: []backfill.Phase{{ID: "one", Processors: []backfill.Processor{{Name: "x", Timeout: time.Minute}}}}}
	must(t, s.PutPipeline(t.Context(), "v1", want))
	must(t, s.PutPipeline(t.Context(), "v1", &backfill.Pipeline{Name: "p"}))
	got, err := s.Pipeline(t.Context(), "p", "v1")
	must(t, err)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v became %+v", want, got)
	}
	_, err = s.Pipeline(t.Context(), "p", "v2")
	wantKind(t, "another version", err, fault.NotFound)
}

func strangeNames(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	odd := backfill.Fact{Key: backfill.Key{Phase: "phase/with.dots `and` \\ ticks", Processor: "a.b/c[d]~*", Attempt: 1, Kind: backfill.Succeeded}, Value: backfill.Value{At: epoch}}
	add(t, s, first, odd)
	if r := date(t, s, "b", first); !r.Has(odd.Key) {
		t.Errorf("%+v", r.Facts())
	}
}

func closed(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	must(t, s.Close())
	must(t, s.Close())
	if _, err := s.Backfill(t.Context(), "b"); err == nil {
		t.Error("a closed store reads")
	}
	if _, err := s.Merge(t.Context(), "b", first, time.Time{}, fact("p", 1, backfill.Failed)); err == nil {
		t.Error("a closed store writes")
	}
}
