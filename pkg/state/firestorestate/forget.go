package firestorestate

import (
	"context"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
)

func (s *Store) grave(id string) *firestore.DocumentRef { return s.client.Doc("forgotten/" + id) }

// buried is the error of an id that was forgotten a moment ago.
func (s *Store) buried(tx *firestore.Transaction, id string) error {
	s.reads.Add(1)
	snap, err := tx.Get(s.grave(id))
	if code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	at, _ := snap.Data()["at"].(time.Time)
	return state.Buried(id, at, time.Now())
}

// dateRefs lists the documents of a backfill's dates.
func (s *Store) dateRefs(ctx context.Context, id string) ([]*firestore.DocumentRef, error) {
	snaps, err := s.backfillDoc(id).Collection("dates").Select().Documents(ctx).GetAll()
	if err != nil {
		return nil, wrap(err, "listing the dates of %s", id)
	}
	s.reads.Add(int64(len(snaps)))
	refs := make([]*firestore.DocumentRef, len(snaps))
	for i, snap := range snaps {
		refs[i] = snap.Ref
	}
	return refs, nil
}

// Expire implements state.Backfills.
func (s *Store) Expire(ctx context.Context, id string, at time.Time) error {
	if _, err := s.modify(ctx, id, func(b *backfill.Backfill) error { b.ExpiresAt = at; return nil }); err != nil {
		return err
	}
	refs, err := s.dateRefs(ctx, id)
	if err != nil {
		return err
	}
	var value any = firestore.Delete
	if !at.IsZero() {
		value = at
	}
	return s.bulk(ctx, refs, func(w *firestore.BulkWriter, ref *firestore.DocumentRef) (*firestore.BulkWriterJob, error) {
		return w.Update(ref, []firestore.Update{{Path: expires, Value: value}})
	})
}

// Forget implements state.Backfills. The backfill goes last, so that one that was cut short is found again.
func (s *Store) Forget(ctx context.Context, id string) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	b, err := s.Backfill(ctx, id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if b != nil {
		if err := s.Unclaim(ctx, b.Request.Pipeline, id); err != nil {
			return err
		}
	}
	refs, err := s.dateRefs(ctx, id)
	if err != nil {
		return err
	}
	err = s.bulk(ctx, refs, func(w *firestore.BulkWriter, ref *firestore.DocumentRef) (*firestore.BulkWriterJob, error) {
		return w.Delete(ref)
	})
	if err != nil {
		return err
	}
	now := time.Now()
	s.writes.Add(2)
	if _, err := s.grave(id).Set(ctx, map[string]any{"at": now, expires: now.Add(state.Grave)}); err != nil {
		return wrap(err, "forgetting backfill %s", id)
	}
	_, err = s.backfillDoc(id).Delete(ctx)
	return wrap(err, "forgetting backfill %s", id)
}
