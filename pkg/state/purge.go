package state

import (
	"context"
	"errors"
	"time"

	"sluice.dev/pkg/fault"
)

// Purge forgets the ended backfills whose time has come, and says which they were.
func Purge(ctx context.Context, s Store, now time.Time) ([]string, error) {
	all, err := s.ListBackfills(ctx)
	if err != nil {
		return nil, err
	}
	var gone []string
	var errs []error
	for _, b := range all {
		if !b.State.Ended() || b.ExpiresAt.IsZero() || b.ExpiresAt.After(now) {
			continue
		}
		if err := s.Forget(ctx, b.ID); err != nil {
			errs = append(errs, err)
			continue
		}
		gone = append(gone, b.ID)
	}
	return gone, errors.Join(errs...)
}

// Buried is the error of an id that was forgotten at a time, nil once it may be used again.
func Buried(id string, forgotten, now time.Time) error {
	left := forgotten.Add(Grave).Sub(now)
	if left <= 0 {
		return nil
	}
	return fault.New(fault.Unavailable, "backfill %s was forgotten a moment ago: its id can be used again in %s", id, left.Round(time.Second))
}
