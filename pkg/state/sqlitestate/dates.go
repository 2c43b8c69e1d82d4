package sqlitestate

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/sqlitedb"
	"sluice.dev/pkg/state"
)

// dateKey names a record.
type dateKey struct {
	id   string
	date backfill.Date
}

// overlay holds the records that the transaction under way has changed, for the writes after in the group.
type overlay struct {
	tx      *sqlitedb.Tx
	records map[dateKey]backfill.Record
}

// current is the record as the transaction sees it. Only the writer's goroutine calls it.
func (s *Store) current(tx *sqlitedb.Tx, k dateKey) (backfill.Record, error) {
	if s.overlay.tx != tx {
		s.overlay = overlay{tx, map[dateKey]backfill.Record{}}
	}
	if r, ok := s.overlay.records[k]; ok {
		return r, nil
	}
	if r, ok := s.cache.get(k); ok {
		return r, nil
	}
	var r backfill.Record
	found := false
	err := scan(context.Background(), tx, k.id, k.date, k.date, func(rec backfill.Record) error {
		r, found = rec, true
		return nil
	})
	if err == nil && !found {
		err = fault.New(fault.NotFound, "backfill %q has no date %s", k.id, k.date)
	}
	return r, err
}

// put writes the facts that are new, and the wake-up time when it changed.
func (s *Store) put(tx *sqlitedb.Tx, k dateKey, old backfill.Record, wake time.Time, facts []backfill.Fact) (backfill.Record, error) {
	fresh := old.New(facts)
	for _, f := range fresh {
		value, err := json.Marshal(f.Value)
		if err != nil {
			return old, wrap(err, "storing a fact of %s", k.date)
		}
		_, err = tx.Exec("INSERT INTO facts(backfill, date, phase, processor, attempt, kind, value) VALUES(?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
			k.id, k.date, f.Phase, f.Processor, f.Attempt, f.Kind, value)
		if err != nil {
			return old, wrap(err, "storing a fact of %s", k.date)
		}
	}
	r := old.Add(fresh...)
	if !wake.Equal(old.WakeAt) {
		if _, err := tx.Exec("UPDATE dates SET wake=? WHERE backfill=? AND date=?", nanos(wake), k.id, k.date); err != nil {
			return old, wrap(err, "storing the wake-up time of %s", k.date)
		}
		r.WakeAt = wake
	}
	s.overlay.records[k] = r
	return r, nil
}

func nanos(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixNano()
}

// commit makes a record visible once its transaction is through.
func (s *Store) commit(k dateKey, r backfill.Record, changed bool) {
	s.cache.put(k, r)
	if changed {
		s.watch.notify(k.id, state.Change{Record: &r})
	}
}

// Merge implements state.Dates.
func (s *Store) Merge(ctx context.Context, id string, date backfill.Date, wake time.Time, facts ...backfill.Fact) (backfill.Record, error) {
	k := dateKey{id, date}
	var r backfill.Record
	var changed bool
	err := s.db.WriteThen(ctx, func(tx *sqlitedb.Tx) error {
		old, err := s.current(tx, k)
		if err != nil {
			return err
		}
		r, err = s.put(tx, k, old, backfill.Sooner(old.WakeAt, wake), facts)
		changed = r.Len() != old.Len()
		return err
	}, func(err error) {
		if err == nil {
			s.commit(k, r, changed)
		}
	})
	return r, err
}

// Rearm implements state.Dates.
func (s *Store) Rearm(ctx context.Context, id string, seen backfill.Record, at time.Time) (bool, error) {
	k := dateKey{id, seen.Date}
	var r backfill.Record
	var same bool
	err := s.db.WriteThen(ctx, func(tx *sqlitedb.Tx) (err error) {
		if r, err = s.current(tx, k); err != nil {
			return err
		}
		if same = r.Len() == seen.Len() && r.WakeAt.Equal(seen.WakeAt); same {
			r, err = s.put(tx, k, r, at, nil)
		}
		return err
	}, func(err error) {
		if err == nil {
			s.commit(k, r, false)
		}
	})
	return same && err == nil, err
}

// CreateDates implements state.Dates.
func (s *Store) CreateDates(ctx context.Context, id string, records []backfill.Record) error {
	for len(records) > 0 {
		n := min(len(records), 200)
		if err := s.createDates(ctx, id, records[:n]); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

func (s *Store) createDates(ctx context.Context, id string, records []backfill.Record) error {
	made := make([]backfill.Record, len(records))
	return s.db.WriteThen(ctx, func(tx *sqlitedb.Tx) error {
		for i, rec := range records {
			k := dateKey{id, rec.Date}
			_, err := tx.Exec("INSERT INTO dates(backfill, date, season, wake) VALUES(?,?,?,?) ON CONFLICT DO NOTHING",
				id, rec.Date, rec.Season, nanos(rec.WakeAt))
			if err != nil {
				return wrap(err, "creating %s", rec.Date)
			}
			old, err := s.current(tx, k)
			if err != nil {
				return err
			}
			if made[i], err = s.put(tx, k, old, backfill.Sooner(old.WakeAt, rec.WakeAt), rec.Facts()); err != nil {
				return err
			}
		}
		return nil
	}, func(err error) {
		for i := range made {
			if err == nil {
				s.commit(dateKey{id, made[i].Date}, made[i], true)
			}
		}
	})
}

// Date implements state.Dates.
func (s *Store) Date(ctx context.Context, id string, date backfill.Date) (backfill.Record, error) {
	k := dateKey{id, date}
	if r, ok := s.cache.get(k); ok {
		return r, nil
	}
	// Loading on the writer's goroutine keeps an older version from overtaking a newer one on its way into the cache.
	var r backfill.Record
	err := s.db.WriteThen(ctx, func(tx *sqlitedb.Tx) (err error) {
		r, err = s.current(tx, k)
		return err
	}, func(err error) {
		if err == nil {
			s.cache.put(k, r)
		}
	})
	return r, err
}

// scanPage bounds how many dates are in memory during a scan.
const scanPage = 100

// ScanDates implements state.Dates.
func (s *Store) ScanDates(ctx context.Context, id string, from, to backfill.Date, f func(backfill.Record) error) error {
	for {
		var page []backfill.Record
		err := scan(ctx, s.db, id, from, to, func(r backfill.Record) error {
			page = append(page, r)
			if len(page) == scanPage {
				return errPageFull
			}
			return nil
		})
		if err != nil && !errors.Is(err, errPageFull) {
			return err
		}
		for _, r := range page {
			if err := f(r); err != nil {
				return err
			}
		}
		if len(page) < scanPage {
			return nil
		}
		from = page[len(page)-1].Date + 1
	}
}

var errPageFull = errors.New("page full")

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// scan reads dates with their facts in one ordered pass.
func scan(ctx context.Context, q querier, id string, from, to backfill.Date, f func(backfill.Record) error) error {
	rows, err := q.QueryContext(ctx, `SELECT d.date, d.season, d.wake, f.phase, f.processor, f.attempt, f.kind, f.value
		FROM dates d LEFT JOIN facts f ON f.backfill=d.backfill AND f.date=d.date
		WHERE d.backfill=? AND d.date BETWEEN ? AND ? ORDER BY d.date`, id, from, to)
	if err != nil {
		return wrap(err, "reading dates of %s", id)
	}
	defer rows.Close()
	cur, facts, started := backfill.Record{}, []backfill.Fact(nil), false
	for rows.Next() {
		var r backfill.Record
		var wake, attempt sql.NullInt64
		var phase, processor, kind, value sql.NullString
		if err := rows.Scan(&r.Date, &r.Season, &wake, &phase, &processor, &attempt, &kind, &value); err != nil {
			return wrap(err, "reading dates of %s", id)
		}
		if started && r.Date != cur.Date {
			if err := f(cur.Add(facts...)); err != nil {
				return err
			}
			facts, started = nil, false
		}
		if !started {
			cur, started = r, true
			if wake.Valid {
				cur.WakeAt = time.Unix(0, wake.Int64).UTC()
			}
		}
		if kind.Valid {
			fact := backfill.Fact{Key: backfill.Key{
				Phase: phase.String, Processor: processor.String, Attempt: int(attempt.Int64), Kind: backfill.Kind(kind.String),
			}}
			if err := json.Unmarshal([]byte(value.String), &fact.Value); err != nil {
				return wrap(err, "reading a fact of %s", cur.Date)
			}
			facts = append(facts, fact)
		}
	}
	if err := rows.Err(); err != nil {
		return wrap(err, "reading dates of %s", id)
	}
	if started {
		return f(cur.Add(facts...))
	}
	return nil
}

// Due implements state.Dates.
func (s *Store) Due(ctx context.Context, id string, now time.Time, limit int) ([]backfill.Date, error) {
	if limit <= 0 {
		limit = math.MaxInt32
	}
	rows, err := s.db.QueryContext(ctx, "SELECT date FROM dates WHERE backfill=? AND wake IS NOT NULL AND wake<=? ORDER BY wake LIMIT ?",
		id, now.UnixNano(), limit)
	if err != nil {
		return nil, wrap(err, "looking for due dates of %s", id)
	}
	defer rows.Close()
	var out []backfill.Date
	for rows.Next() {
		var d backfill.Date
		if err := rows.Scan(&d); err != nil {
			return nil, wrap(err, "looking for due dates of %s", id)
		}
		out = append(out, d)
	}
	return out, wrap(rows.Err(), "looking for due dates of %s", id)
}
