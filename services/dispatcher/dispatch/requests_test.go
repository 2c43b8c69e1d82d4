package dispatch

import (
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Dates that an ended backfill still owns, because its process was killed before it could free them, are free; those of
// one that runs are not.
func TestDatesOfAnEndedBackfillAreFree(t *testing.T) {
	t.Parallel()
	const day = backfill.Date(19700)
	for state, want := range map[backfill.State]backfill.State{
		backfill.StateCompleted: backfill.StateActive, backfill.StateCancelled: backfill.StateActive, backfill.StatePaused: backfill.StateRefused,
	} {
		s := openStore(t)
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
		o := options(s, "me", time.Now)
		o.Before.Planner.Pipelines = map[string]*backfill.Pipeline{"p": p}
		d := New(o)
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
