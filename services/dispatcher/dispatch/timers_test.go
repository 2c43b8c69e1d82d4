package dispatch

import (
	"context"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/state"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// busy is a store in which something happens to a date just before its timer is set.
type busy struct {
	state.Store
	before func()
}

func (b busy) Rearm(ctx context.Context, id string, seen backfill.Record, at time.Time) (bool, error) {
	b.before()
	return b.Store.Rearm(ctx, id, seen, at)
}

// A processor failed before its phase was let through. When it is, its timer for another attempt must be set, whatever
// else happens to the date at that moment.
func TestATimerIsNotLostWhenTheDateChangesMeanwhile(t *testing.T) {
	t.Parallel()
	const day = backfill.Date(19700)
	now := time.Now().UTC()
	for name, trigger := range map[string]backfill.Trigger{"the platform starts it": {}, "we call it": {HTTP: &backfill.HTTPTrigger{URL: "http://127.0.0.1:1/"}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t)
			proc := func(name string) backfill.Processor {
				return backfill.Processor{Name: name, Timeout: time.Hour, Attempts: 3, Backoff: backfill.Backoff{Initial: time.Hour, Max: time.Hour}}
			}
			p := &backfill.Pipeline{Name: "p", Phases: []backfill.Phase{{ID: "one", Trigger: trigger, Processors: []backfill.Processor{proc("a"), proc("b")}}}}
			fact := func(processor string, k backfill.Kind, attempt int) backfill.Fact {
				return backfill.Fact{Key: backfill.Key{Phase: "one", Processor: processor, Kind: k, Attempt: attempt}, Value: backfill.Value{At: now}}
			}
			active(t, s, "b", p, now, day, fact("a", backfill.Failed, 1))
			happened := false
			d := New(options(busy{s, func() {
				if !happened {
					happened = true
					if _, err := s.Merge(t.Context(), "b", day, time.Time{}, fact("b", backfill.Succeeded, 1)); err != nil {
						t.Error(err)
					}
				}
			}}, "me", func() time.Time { return now }))
			if err := d.take(t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Merge(t.Context(), "b", day, time.Time{}, fact("a", backfill.Triggered, 0)); err != nil {
				t.Fatal(err)
			}
			m := &pb.PhaseTriggered{BackfillId: "b", Pipeline: "p", Date: day.String(), Phase: "one", Processors: []string{"a"}}
			if err := d.onTrigger(t.Context(), event.New(event.TypeTriggered, "//test", "b", now, m)); err != nil {
				t.Fatal(err)
			}
			rec, err := s.Date(t.Context(), "b", day)
			if err != nil {
				t.Fatal(err)
			}
			due := rec.Run("b", &p.Phases[0], &p.Phases[0].Processors[0]).DueAt
			if !happened || rec.WakeAt.IsZero() || rec.WakeAt.After(due) {
				t.Errorf("the timer is set to %s, the attempt is due at %s", rec.WakeAt, due)
			}
		})
	}
}
