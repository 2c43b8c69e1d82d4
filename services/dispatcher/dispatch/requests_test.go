package dispatch_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/state/sqlitestate"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/dispatcher/dispatch"
)

// nobody takes events and forgets them.
type nobody struct{}

func (nobody) Publish(context.Context, string, ...*event.Event) error { return nil }

// Dates that an ended backfill still owns, because its process was killed before it could free them, are free; those of
// one that runs are not.
func TestDatesOfAnEndedBackfillAreFree(t *testing.T) {
	t.Parallel()
	const day = backfill.Date(19700)
	for state, want := range map[backfill.State]backfill.State{
		backfill.StateCompleted: backfill.StateActive, backfill.StateCancelled: backfill.StateActive, backfill.StatePaused: backfill.StateRefused,
	} {
		s, err := sqlitestate.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		cal := backfill.NewCalendar([]backfill.Partition{{Date: day}})
		p := &backfill.Pipeline{Name: "p", Partition: backfill.PartitionSource{Column: "d", Dates: &cal}, Phases: []backfill.Phase{{
			ID: "one", Trigger: backfill.Trigger{HTTP: &backfill.HTTPTrigger{URL: "http://127.0.0.1:1/"}},
			Processors: []backfill.Processor{{Name: "a", Timeout: time.Minute, Attempts: 1}},
		}}}
		old := &backfill.Backfill{ID: "old", Version: "v", State: state, Request: backfill.Request{ID: "old", Pipeline: "p"}, Calendar: cal, Dates: cal}
		if _, _, err := s.CreateBackfill(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		if err := s.Claim(t.Context(), "p", "old", []backfill.Date{day}); err != nil {
			t.Fatal(err)
		}
		d := dispatch.New(dispatch.Options{
			Store: s, Bus: nobody{}, Planner: &planner.Planner{Pipelines: map[string]*backfill.Pipeline{"p": p}}, Caller: dispatch.NewCaller(nil),
			Log: slog.New(slog.DiscardHandler), Now: time.Now, Holder: "me", LeaseTTL: time.Minute, Tick: time.Second,
		})
		m := &pb.BackfillRequested{BackfillId: "new", Pipeline: "p", Dates: &pb.DateSelection{List: []string{day.String()}}}
		if err := d.Handlers()[event.TopicRequests](t.Context(), event.New(event.TypeRequested, "//test", "new", time.Now(), m)); err != nil {
			t.Fatal(err)
		}
		b, err := s.Backfill(t.Context(), "new")
		if err != nil || b.State != want {
			t.Errorf("after one that is %s: %s %v, %v", state, b.State, b.Faults, err)
		}
	}
}
