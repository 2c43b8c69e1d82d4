package dispatch

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/preflight"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/state/sqlitestate"
)

// nobody takes events and forgets them.
type nobody struct{}

func (nobody) Publish(context.Context, string, ...*event.Event) error { return nil }

func openStore(t *testing.T) *sqlitestate.Store {
	t.Helper()
	s, err := sqlitestate.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// options are those of a dispatcher on a store.
func options(s state.Store, holder string, now func() time.Time) Options {
	return Options{
		Store: s, Bus: nobody{}, Before: &preflight.Preflight{Planner: &planner.Planner{}}, Caller: NewCaller(nil), Log: slog.New(slog.DiscardHandler),
		Now: now, Holder: holder, LeaseTTL: time.Minute, Tick: time.Second,
	}
}

// active stores an active backfill of one date, of which the facts are known.
func active(t *testing.T, s *sqlitestate.Store, id string, p *backfill.Pipeline, created time.Time, day backfill.Date, facts ...backfill.Fact) {
	t.Helper()
	cal := backfill.NewCalendar([]backfill.Partition{{Date: day}})
	b := &backfill.Backfill{
		ID: id, Version: "v", State: backfill.StateActive, Request: backfill.Request{ID: id, Pipeline: p.Name}, Calendar: cal, Dates: cal, CreatedAt: created,
	}
	if err := s.PutPipeline(t.Context(), "v", p); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.CreateBackfill(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateDates(t.Context(), id, []backfill.Record{backfill.NewRecord(day, "", facts...)}); err != nil {
		t.Fatal(err)
	}
}
