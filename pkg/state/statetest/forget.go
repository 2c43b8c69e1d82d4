package statetest

import (
	"slices"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
)

func checks(t *testing.T, s state.Store) {
	create(t, s, "b", 1)
	c := &backfill.Check{Name: "sane", After: "one", Blocking: true}
	ref := c.Ref()
	of := func(attempt int, kind backfill.Kind) backfill.Fact { return fact(ref.Processor, attempt, kind) }
	for _, step := range []struct {
		fact backfill.Fact
		want backfill.CheckState
	}{
		{fact("sane", 1, backfill.Succeeded), backfill.CheckPending}, // a processor of that name is another thing
		{of(1, backfill.CheckFailed), backfill.CheckIsBad}, {of(1, backfill.Retried), backfill.CheckPending},
		{of(2, backfill.CheckPassed), backfill.CheckIsGood}, {of(0, backfill.Waived), backfill.CheckIsOver},
	} {
		add(t, s, first, step.fact)
		rec := date(t, s, "b", first)
		if got := rec.Check(c); got.State != step.want || !rec.Has(step.fact.Key) {
			t.Errorf("after %+v the check is %+v, not %s", step.fact.Key, got, step.want)
		}
	}
}

func forget(t *testing.T, s state.Store) {
	for _, id := range []string{"b", "other"} {
		create(t, s, id, 3)
		add(t, s, first, fact("x", 1, backfill.Succeeded))
	}
	must(t, s.Claim(t.Context(), "p", "b", []backfill.Date{first}))
	must(t, s.Claim(t.Context(), "p", "other", []backfill.Date{first + 1}))
	for range 2 { // again is no error
		must(t, s.Forget(t.Context(), "b"))
	}
	_, err := s.Backfill(t.Context(), "b")
	wantKind(t, "the backfill", err, fault.NotFound)
	_, err = s.Date(t.Context(), "b", first)
	wantKind(t, "a date", err, fault.NotFound)
	_, err = s.Merge(t.Context(), "b", first, time.Time{}, fact("y", 1, backfill.Succeeded))
	wantKind(t, "a merge", err, fault.NotFound)
	_, err = s.Owner(t.Context(), "p", first)
	wantKind(t, "the owner", err, fault.NotFound)
	must(t, s.ScanDates(t.Context(), "b", first, first+9, func(r backfill.Record) error {
		t.Errorf("%s is still there", r.Date)
		return nil
	}))
	_, _, err = s.CreateBackfill(t.Context(), a("b"))
	wantKind(t, "its id, at once", err, fault.Unavailable)
	if r := date(t, s, "other", first); r.Date != first {
		t.Errorf("another backfill: %+v", r)
	}
	if owner, err := s.Owner(t.Context(), "p", first+1); err != nil || owner != "other" {
		t.Errorf("another's date belongs to %q, %v", owner, err)
	}
}

func purge(t *testing.T, s state.Store) {
	for i, state := range []backfill.State{backfill.StateCompleted, backfill.StateIncomplete, backfill.StateActive} {
		b := a([]string{"old", "young", "active"}[i])
		b.State = state
		_, _, err := s.CreateBackfill(t.Context(), b)
		must(t, err)
		must(t, s.CreateDates(t.Context(), b.ID, []backfill.Record{backfill.NewRecord(first, "2023-24")}))
		must(t, s.Expire(t.Context(), b.ID, epoch.Add(time.Duration(i%2)*time.Hour)))
	}
	gone, err := state.Purge(t.Context(), s, epoch.Add(time.Minute))
	if err != nil || !slices.Equal(gone, []string{"old"}) {
		t.Errorf("%v is gone: %v", gone, err)
	}
	_, err = s.Date(t.Context(), "old", first)
	wantKind(t, "a date of the old one", err, fault.NotFound)
	must(t, s.Expire(t.Context(), "young", time.Time{}))
	gone, err = state.Purge(t.Context(), s, epoch.Add(1000*time.Hour))
	if err != nil || len(gone) != 0 {
		t.Errorf("%v is gone: %v", gone, err)
	}
	if b, err := s.Backfill(t.Context(), "young"); err != nil || !b.ExpiresAt.IsZero() {
		t.Errorf("%+v, %v", b, err)
	}
	if r := date(t, s, "young", first); r.Date != first {
		t.Errorf("%+v", r)
	}
}
