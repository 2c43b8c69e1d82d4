package firestorestate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
)

// created is a field of its own, because a time in the document is text.
const created = "created"

// expires is the field that the database's TTL policies look at, in backfills, dates and graves.
const expires = "expires"

// toDoc writes a document through its JSON, so that its fields are the contract's.
func toDoc(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("writing a document: %w", err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("writing a document: %w", err)
	}
	return doc, nil
}

func fromDoc(doc map[string]any, v any) error {
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("reading a document: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading a document: %w", err)
	}
	return nil
}

func toBackfill(snap *firestore.DocumentSnapshot) (*backfill.Backfill, error) {
	b := new(backfill.Backfill)
	if err := fromDoc(snap.Data(), b); err != nil {
		return nil, wrap(err, "reading backfill %s", snap.Ref.ID)
	}
	return b, nil
}

func fromBackfill(b *backfill.Backfill) (map[string]any, error) {
	doc, err := toDoc(b)
	if err != nil {
		return nil, wrap(err, "storing backfill %s", b.ID)
	}
	doc[created] = b.CreatedAt
	if !b.ExpiresAt.IsZero() {
		doc[expires] = b.ExpiresAt
	}
	return doc, nil
}

// transact runs a read-modify-write of one backfill.
func (s *Store) transact(ctx context.Context, id string, f func(context.Context, *firestore.Transaction) error) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	defer s.lock(id)()
	for wait := 20 * time.Millisecond; ; wait *= 2 {
		err := s.client.RunTransaction(ctx, f)
		if c := code(err); (c != codes.Aborted && c != codes.Unavailable) || wait > 2*time.Second {
			return err
		}
		select { // others write the same document
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// CreateBackfill implements state.Backfills.
func (s *Store) CreateBackfill(ctx context.Context, b *backfill.Backfill) (*backfill.Backfill, bool, error) {
	doc, err := fromBackfill(b)
	if err != nil {
		return nil, false, err
	}
	var stored *backfill.Backfill
	made := false
	err = s.transact(ctx, b.ID, func(_ context.Context, tx *firestore.Transaction) error {
		s.reads.Add(1)
		snap, err := tx.Get(s.backfillDoc(b.ID))
		if err != nil && code(err) != codes.NotFound {
			return err
		}
		if err == nil {
			if stored, err = toBackfill(snap); err != nil {
				return err
			}
			if made = stored.State == backfill.StateRefused; !made {
				return nil
			}
		} else if err := s.buried(tx, b.ID); err != nil {
			return err
		}
		stored, made = b, true
		s.writes.Add(1)
		return tx.Set(s.backfillDoc(b.ID), doc)
	})
	if err != nil {
		return nil, false, wrap(err, "creating backfill %s", b.ID)
	}
	return stored, made, nil
}

// Backfill implements state.Backfills.
func (s *Store) Backfill(ctx context.Context, id string) (*backfill.Backfill, error) {
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	s.reads.Add(1)
	snap, err := s.backfillDoc(id).Get(ctx)
	if code(err) == codes.NotFound {
		return nil, fault.New(fault.NotFound, "no backfill %q", id)
	}
	if err != nil {
		return nil, wrap(err, "reading backfill %s", id)
	}
	return toBackfill(snap)
}

// ListBackfills implements state.Backfills.
func (s *Store) ListBackfills(ctx context.Context) ([]*backfill.Backfill, error) {
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	snaps, err := s.client.Collection("backfills").OrderBy(created, firestore.Desc).Documents(ctx).GetAll()
	if err != nil {
		return nil, wrap(err, "listing backfills")
	}
	s.reads.Add(int64(len(snaps)))
	out := make([]*backfill.Backfill, len(snaps))
	for i, snap := range snaps {
		if out[i], err = toBackfill(snap); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// modify changes a backfill in a transaction.
func (s *Store) modify(ctx context.Context, id string, change func(*backfill.Backfill) error) (*backfill.Backfill, error) {
	var b *backfill.Backfill
	var refused error
	err := s.transact(ctx, id, func(_ context.Context, tx *firestore.Transaction) error {
		s.reads.Add(1)
		snap, err := tx.Get(s.backfillDoc(id))
		if err != nil {
			return err
		}
		if b, err = toBackfill(snap); err != nil {
			return err
		}
		if refused = change(b); refused != nil {
			return refused
		}
		doc, err := fromBackfill(b)
		if err != nil {
			return err
		}
		s.writes.Add(1)
		return tx.Set(s.backfillDoc(id), doc)
	})
	switch {
	case err != nil && refused != nil && errors.Is(err, refused):
		return nil, refused
	case code(err) == codes.NotFound:
		return nil, fault.New(fault.NotFound, "no backfill %q", id)
	case err != nil:
		return nil, wrap(err, "changing backfill %s", id)
	}
	return b, nil
}

// UpdateBackfill implements state.Backfills.
func (s *Store) UpdateBackfill(ctx context.Context, id string, epoch int64, change func(*backfill.Backfill) error) (*backfill.Backfill, error) {
	return s.modify(ctx, id, func(b *backfill.Backfill) error { return state.Apply(b, epoch, change) })
}

// Acquire implements state.Backfills.
func (s *Store) Acquire(ctx context.Context, id, holder string, now time.Time, ttl time.Duration) (backfill.Lease, error) {
	b, err := s.modify(ctx, id, func(b *backfill.Backfill) error { return state.Take(b, holder, now, ttl) })
	if err != nil {
		return backfill.Lease{}, err
	}
	return b.Lease, nil
}

// Release implements state.Backfills.
func (s *Store) Release(ctx context.Context, id, holder string) error {
	_, err := s.modify(ctx, id, func(b *backfill.Backfill) error { state.GiveUp(b, holder); return nil })
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}
