package state

import (
	"context"
	"sync"
	"time"

	"sluice.dev/pkg/backfill"
)

// Scopes finds the scope of a backfill: its dates and the pipeline version it was started with. Both never
// change while it lives, so they are remembered for a while.
type Scopes struct {
	store Store
	ttl   time.Duration

	mu    sync.Mutex
	known map[string]scopeEntry
}

type scopeEntry struct {
	scope *backfill.Scope
	until time.Time
}

// NewScopes remembers for ttl.
func NewScopes(store Store, ttl time.Duration) *Scopes {
	return &Scopes{store: store, ttl: ttl, known: map[string]scopeEntry{}}
}

// Get returns NotFound for a backfill that is not there or was refused.
func (s *Scopes) Get(ctx context.Context, id string, now time.Time) (*backfill.Scope, error) {
	s.mu.Lock()
	e, ok := s.known[id]
	s.mu.Unlock()
	if ok && now.Before(e.until) {
		return e.scope, nil
	}
	b, err := s.store.Backfill(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := s.store.Pipeline(ctx, b.Request.Pipeline, b.Version)
	if err != nil {
		return nil, err
	}
	scope := backfill.NewScope(b, p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) > 100 {
		clear(s.known)
	}
	s.known[id] = scopeEntry{scope, now.Add(s.ttl)}
	return scope, nil
}
