package sqlitestate

import (
	"context"
	"sync"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/state"
)

// watchers hands changes to everybody who watches a backfill. Each watcher holds only the newest version
// of what changed, so a slow one costs no more memory than there are dates.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]struct{}
}

type watcher struct {
	id      string
	mu      sync.Mutex
	doc     *backfill.Backfill
	records map[backfill.Date]*backfill.Record
	ready   chan struct{}
}

func (w *watchers) notify(id string, c state.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		if one.id == id {
			one.add(c)
		}
	}
}

func (w *watcher) add(c state.Change) {
	w.mu.Lock()
	if c.Backfill != nil {
		w.doc = c.Backfill
	} else {
		w.records[c.Record.Date] = c.Record
	}
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []state.Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]state.Change, 0, len(w.records)+1)
	for _, r := range w.records {
		out = append(out, state.Change{Record: r})
	}
	if w.doc != nil {
		out = append(out, state.Change{Backfill: w.doc})
	}
	w.doc, w.records = nil, map[backfill.Date]*backfill.Record{}
	return out
}

// Watch implements state.Store.
func (s *Store) Watch(ctx context.Context, id string, f func(state.Change)) error {
	me := &watcher{id: id, records: map[backfill.Date]*backfill.Record{}, ready: make(chan struct{}, 1)}
	s.watch.mu.Lock()
	if s.watch.all == nil {
		s.watch.all = map[*watcher]struct{}{}
	}
	s.watch.all[me] = struct{}{}
	s.watch.mu.Unlock()
	defer func() {
		s.watch.mu.Lock()
		delete(s.watch.all, me)
		s.watch.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-me.ready:
			for _, c := range me.take() {
				f(c)
			}
		}
	}
}
