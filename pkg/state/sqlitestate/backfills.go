package sqlitestate

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"maps"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/sqlitedb"
	"sluice.dev/pkg/state"
)

// rowQuerier is a transaction or a pool.
type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func loadBackfill(ctx context.Context, q rowQuerier, id string) (*backfill.Backfill, error) {
	var doc string
	err := q.QueryRowContext(ctx, "SELECT doc FROM backfills WHERE id=?", id).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "no backfill %q", id)
	}
	if err != nil {
		return nil, wrap(err, "reading backfill %s", id)
	}
	b := new(backfill.Backfill)
	return b, wrap(json.Unmarshal([]byte(doc), b), "reading backfill %s", id)
}

func storeBackfill(tx *sqlitedb.Tx, b *backfill.Backfill) error {
	doc, err := json.Marshal(b)
	if err != nil {
		return wrap(err, "storing backfill %s", b.ID)
	}
	_, err = tx.Exec("INSERT INTO backfills(id, created, doc) VALUES(?,?,?) ON CONFLICT(id) DO UPDATE SET created=excluded.created, doc=excluded.doc",
		b.ID, b.CreatedAt.UnixNano(), doc)
	return wrap(err, "storing backfill %s", b.ID)
}

// CreateBackfill implements state.Backfills.
func (s *Store) CreateBackfill(ctx context.Context, b *backfill.Backfill) (*backfill.Backfill, bool, error) {
	var stored *backfill.Backfill
	var created bool
	err := s.db.WriteThen(ctx, func(tx *sqlitedb.Tx) error {
		old, err := loadBackfill(ctx, tx, b.ID)
		switch {
		case err == nil && old.State != backfill.StateRefused:
			stored, created = old, false
			return nil
		case err != nil && !fault.Is(err, fault.NotFound):
			return err
		case err != nil:
			if err := buried(ctx, tx, b.ID); err != nil {
				return err
			}
		}
		stored, created = b, true
		return storeBackfill(tx, b)
	}, func(err error) {
		if err == nil && created {
			s.watch.notify(b.ID, state.Change{Backfill: b})
		}
	})
	return stored, created, err
}

// Backfill implements state.Backfills.
func (s *Store) Backfill(ctx context.Context, id string) (*backfill.Backfill, error) {
	return loadBackfill(ctx, s.db, id)
}

// ListBackfills implements state.Backfills.
func (s *Store) ListBackfills(ctx context.Context) ([]*backfill.Backfill, error) {
	rows, err := s.db.QueryContext(ctx, "SELECT doc FROM backfills ORDER BY created DESC, id")
	if err != nil {
		return nil, wrap(err, "listing backfills")
	}
	defer rows.Close()
	var out []*backfill.Backfill
	for rows.Next() {
		var doc string
		if err := rows.Scan(&doc); err != nil {
			return nil, wrap(err, "listing backfills")
		}
		b := new(backfill.Backfill)
		if err := json.Unmarshal([]byte(doc), b); err != nil {
			return nil, wrap(err, "listing backfills")
		}
		out = append(out, b)
	}
	return out, wrap(rows.Err(), "listing backfills")
}

// modify is the read-modify-write of one backfill document.
func (s *Store) modify(ctx context.Context, id string, change func(*backfill.Backfill) error) (*backfill.Backfill, error) {
	var b *backfill.Backfill
	err := s.db.WriteThen(ctx, func(tx *sqlitedb.Tx) (err error) {
		if b, err = loadBackfill(ctx, tx, id); err != nil {
			return err
		}
		if err := change(b); err != nil {
			return err
		}
		return storeBackfill(tx, b)
	}, func(err error) {
		if err == nil {
			s.watch.notify(id, state.Change{Backfill: b})
		}
	})
	if err != nil {
		return nil, err
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

// buried is the error of an id that was forgotten a moment ago.
func buried(ctx context.Context, tx *sqlitedb.Tx, id string) error {
	var at int64
	err := tx.QueryRowContext(ctx, "SELECT at FROM forgotten WHERE id=?", id).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return wrap(err, "creating backfill %s", id)
	}
	return state.Buried(id, time.Unix(0, at), time.Now())
}

// Expire implements state.Backfills. Dates go with their backfill here.
func (s *Store) Expire(ctx context.Context, id string, at time.Time) error {
	_, err := s.modify(ctx, id, func(b *backfill.Backfill) error { b.ExpiresAt = at; return nil })
	return err
}

// Forget implements state.Backfills.
func (s *Store) Forget(ctx context.Context, id string) error {
	return s.db.WriteThen(ctx, func(tx *sqlitedb.Tx) error {
		now := time.Now()
		for _, x := range []struct {
			query string
			args  []any
		}{
			{"DELETE FROM facts WHERE backfill=?", []any{id}}, {"DELETE FROM dates WHERE backfill=?", []any{id}},
			{"DELETE FROM partitions WHERE backfill=?", []any{id}}, {"DELETE FROM backfills WHERE id=?", []any{id}},
			{"DELETE FROM forgotten WHERE at < ?", []any{now.Add(-state.Grave).UnixNano()}},
			{"INSERT OR REPLACE INTO forgotten(id, at) VALUES(?,?)", []any{id, now.UnixNano()}},
		} {
			if _, err := tx.Exec(x.query, x.args...); err != nil {
				return wrap(err, "forgetting backfill %s", id)
			}
		}
		if s.overlay.tx == tx {
			maps.DeleteFunc(s.overlay.records, func(k dateKey, _ backfill.Record) bool { return k.id == id })
		}
		s.cache.drop(id)
		return nil
	}, nil)
}
