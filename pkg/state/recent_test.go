package state_test

import (
	"sync"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/state"
)

// Whatever the order in which versions of a record are seen, the newest one is remembered.
func TestTheNewestVersionIsRemembered(t *testing.T) {
	t.Parallel()
	const day, versions = backfill.Date(19700), 64
	rec := backfill.NewRecord(day, "s")
	all := make([]backfill.Record, versions)
	for i := range all {
		rec = rec.Add(backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "a", Attempt: i + 1, Kind: backfill.Failed}, Value: backfill.Value{At: time.Unix(int64(i), 0)}})
		all[i] = rec
	}
	for round := range 200 {
		r, scope := state.NewRecent(), &backfill.Scope{Key: "b@1"}
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() { r.Saw(scope, &all[i]) })
		}
		wg.Wait()
		if got, ok := r.Get(scope, day); !ok || got.Len() != versions {
			t.Fatalf("round %d: %d of %d facts are remembered", round, got.Len(), versions)
		}
	}
}
