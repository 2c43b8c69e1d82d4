package firestorestate

import (
	"context"
	"sync"
	"time"

	"cloud.google.com/go/firestore"

	"sluice.dev/pkg/state"
)

// Watch implements state.Store, on two snapshot listeners. What they see first is how things stand, which is
// no change. A listener that breaks is made again; what changed meanwhile is in its first snapshot then.
func (s *Store) Watch(ctx context.Context, id string, f func(state.Change)) error {
	if err := s.use(ctx); err != nil {
		return nil //nolint:nilerr // a context that has ended is the end of watching
	}
	var mu sync.Mutex // one call of f at a time
	tell := func(c state.Change) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() == nil {
			f(c)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		keep(ctx, func(again bool) error { return s.watchBackfill(ctx, id, again, tell) })
	})
	wg.Go(func() {
		keep(ctx, func(again bool) error { return s.watchDates(ctx, id, again, tell) })
	})
	wg.Wait()
	return nil
}

// keep runs a listener until ctx ends.
func keep(ctx context.Context, listen func(again bool) error) {
	for again := false; ctx.Err() == nil; again = true {
		_ = listen(again) // the next one makes up for what it missed
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (s *Store) watchBackfill(ctx context.Context, id string, again bool, tell func(state.Change)) error {
	it := s.backfillDoc(id).Snapshots(ctx)
	defer it.Stop()
	for first := !again; ; first = false {
		snap, err := it.Next()
		if err != nil {
			return err
		}
		s.reads.Add(1)
		if first || !snap.Exists() {
			continue
		}
		b, err := toBackfill(snap)
		if err != nil {
			return err
		}
		tell(state.Change{Backfill: b})
	}
}

func (s *Store) watchDates(ctx context.Context, id string, again bool, tell func(state.Change)) error {
	it := s.client.Collection("backfills/" + id + "/dates").Snapshots(ctx)
	defer it.Stop()
	for first := !again; ; first = false {
		snaps, err := it.Next()
		if err != nil {
			return err
		}
		s.reads.Add(int64(len(snaps.Changes)))
		if first {
			continue
		}
		for _, c := range snaps.Changes {
			if c.Kind == firestore.DocumentRemoved {
				continue
			}
			r, err := toRecord(c.Doc)
			if err != nil {
				return err
			}
			tell(state.Change{Record: &r})
		}
	}
}
