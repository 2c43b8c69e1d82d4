package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/state/sqlitestate"
)

type nobody struct{}

func (nobody) Publish(context.Context, string, ...*event.Event) error { return nil }

// Limiters are kept in the memory of the instance that drives, so one instance drives all of a pipeline's backfills,
// even when two began with one each; another pipeline's are for anybody.
func TestOneInstanceDrivesAPipeline(t *testing.T) {
	t.Parallel()
	s, err := sqlitestate.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	now := time.Now()
	instance := func(name string) *Dispatcher {
		return New(Options{
			Store: s, Bus: nobody{}, Planner: &planner.Planner{}, Caller: NewCaller(nil), Log: slog.New(slog.DiscardHandler),
			Now: func() time.Time { return now }, Holder: name, LeaseTTL: time.Minute, Tick: time.Second,
		})
	}
	for i, pipeline := range []string{"p", "p", "p", "q"} {
		day := backfill.Date(19700 + i)
		cal := backfill.NewCalendar([]backfill.Partition{{Date: day}})
		p := &backfill.Pipeline{Name: pipeline, Phases: []backfill.Phase{{ID: "one", Processors: []backfill.Processor{{Name: "a"}}}}}
		if err := s.PutPipeline(t.Context(), "v", p); err != nil {
			t.Fatal(err)
		}
		b := &backfill.Backfill{
			ID: fmt.Sprint("b", i), Version: "v", State: backfill.StateActive, Request: backfill.Request{Pipeline: pipeline},
			Calendar: cal, Dates: cal, CreatedAt: now.Add(time.Duration(i) * time.Second),
		}
		if _, _, err := s.CreateBackfill(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if err := s.CreateDates(t.Context(), b.ID, []backfill.Record{backfill.NewRecord(day, "")}); err != nil {
			t.Fatal(err)
		}
	}
	one, two := instance("one"), instance("two")
	for id, d := range map[string]*Dispatcher{"b0": one, "b1": two, "b3": two} { // as when both begin at once
		if err := d.take(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		two.adopt(t.Context())
		one.adopt(t.Context())
	}
	for i, want := range []string{"one", "one", "one", "two"} {
		b, err := s.Backfill(t.Context(), fmt.Sprint("b", i))
		if err != nil || b.Lease.Holder != want {
			t.Errorf("%s is driven by %q, not %q (%v)", b.ID, b.Lease.Holder, want, err)
		}
		if (one.drive(b.ID) != nil) != (want == "one") || (two.drive(b.ID) != nil) != (want == "two") {
			t.Errorf("%s: the instances do not know who drives it", b.ID)
		}
	}
	now = now.Add(2 * time.Minute) // one is gone
	two.adopt(t.Context())
	for i := range 4 {
		if b, err := s.Backfill(t.Context(), fmt.Sprint("b", i)); err != nil || b.Lease.Holder != "two" {
			t.Errorf("%s is driven by %q (%v)", b.ID, b.Lease.Holder, err)
		}
	}
}

// slow is a store that takes its time to say which dates are due.
type slow struct {
	state.Store
	release chan struct{}
	asked   chan struct{}
}

func (s slow) Due(ctx context.Context, id string, now time.Time, limit int) ([]backfill.Date, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-s.release
	return s.Store.Due(ctx, id, now, limit)
}

// However long work takes, the lease is renewed beside it.
func TestALeaseDoesNotLapseWhileThereIsMuchToDo(t *testing.T) {
	t.Parallel()
	store, err := sqlitestate.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	const day = backfill.Date(19700)
	cal := backfill.NewCalendar([]backfill.Partition{{Date: day}})
	p := &backfill.Pipeline{Name: "p", Phases: []backfill.Phase{{ID: "one", Processors: []backfill.Processor{{Name: "a"}}}}}
	b := &backfill.Backfill{ID: "b", Version: "v", State: backfill.StateActive, Request: backfill.Request{Pipeline: "p"}, Calendar: cal, Dates: cal}
	if err := store.PutPipeline(t.Context(), "v", p); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.CreateBackfill(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := store.CreateDates(t.Context(), "b", []backfill.Record{backfill.NewRecord(day, "")}); err != nil {
		t.Fatal(err)
	}
	s := slow{store, make(chan struct{}), make(chan struct{}, 1)}
	d := New(Options{
		Store: s, Bus: nobody{}, Planner: &planner.Planner{}, Caller: NewCaller(nil), Log: slog.New(slog.DiscardHandler),
		Now: time.Now, Holder: "me", LeaseTTL: 300 * time.Millisecond, Tick: time.Millisecond,
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	<-s.asked // from now on, nothing but renewing goes on
	began := time.Now()
	for time.Since(began) < 900*time.Millisecond {
		if _, err := store.Acquire(t.Context(), "b", "another", time.Now(), time.Minute); err == nil {
			t.Fatalf("another instance got the lease after %s", time.Since(began))
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	close(s.release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
