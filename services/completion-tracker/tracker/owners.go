package tracker

import (
	"context"
	"sync"
	"time"

	"sluice.dev/pkg/backfill"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// owners remembers, for a moment, which backfills own dates of a pipeline: an active backfill owns all of its
// dates, so one lookup tells about many.
type owners struct {
	mu    sync.Mutex
	known map[string]map[string]time.Time // until when, by backfill, by pipeline
}

// ownersFor is how long a lookup is believed. Completions that come so soon after the end of a backfill that they
// belong to the next one of the date are recognized by the run being over.
const ownersFor = 2 * time.Second

func (o *owners) of(pipeline string, now time.Time) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []string
	for id, until := range o.known[pipeline] {
		if now.Before(until) {
			out = append(out, id)
		} else {
			delete(o.known[pipeline], id)
		}
	}
	return out
}

func (o *owners) saw(pipeline, id string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil {
		o.known = map[string]map[string]time.Time{}
	}
	if o.known[pipeline] == nil {
		o.known[pipeline] = map[string]time.Time{}
	}
	o.known[pipeline][id] = now.Add(ownersFor)
}

// scope finds the backfill that a completion is about: the one it names, or the active one that owns the date.
func (t *Tracker) scope(ctx context.Context, m *pb.ProcessorCompleted, date backfill.Date) (*backfill.Scope, error) {
	now := t.now()
	if m.GetBackfillId() != "" {
		return t.scopes.Get(ctx, m.GetBackfillId(), now)
	}
	for _, id := range t.owners.of(m.GetPipeline(), now) {
		scope, err := t.scopes.Get(ctx, id, now)
		if err != nil {
			continue
		}
		if _, ours := scope.Dates.Index(date); ours && t.open(scope, m, date) {
			return scope, nil
		}
	}
	id, err := t.store.Owner(ctx, m.GetPipeline(), date)
	if err != nil {
		return nil, err
	}
	t.owners.saw(m.GetPipeline(), id, now)
	return t.scopes.Get(ctx, id, now)
}

// open says that, as far as is known, the run of a completion is not over.
func (t *Tracker) open(scope *backfill.Scope, m *pb.ProcessorCompleted, date backfill.Date) bool {
	rec, ok := t.recent.Get(scope, date)
	if !ok {
		return true
	}
	ph, ok := scope.Pipeline.Phase(m.GetPhase())
	if !ok {
		return false
	}
	proc, ok := ph.Processor(m.GetProcessor())
	if !ok {
		return false
	}
	run := rec.Run(scope.ID, ph, proc)
	return !run.State.Done()
}
