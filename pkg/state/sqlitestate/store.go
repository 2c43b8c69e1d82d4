// Package sqlitestate keeps state in one SQLite file: a row per fact, written in groups by one goroutine,
// with the records in use held in memory. One process owns the file.
package sqlitestate

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/sqlitedb"
	"sluice.dev/pkg/state"
)

// Store is the embedded store.
type Store struct {
	db      *sqlitedb.DB
	cache   *cache
	overlay overlay
	watch   watchers
}

var _ state.Store = (*Store)(nil)

const schema = `
CREATE TABLE IF NOT EXISTS backfills(id TEXT PRIMARY KEY, created INTEGER NOT NULL, doc TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dates(backfill TEXT NOT NULL, date INTEGER NOT NULL, season TEXT NOT NULL, wake INTEGER,
	PRIMARY KEY(backfill, date)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dates_due ON dates(backfill, wake) WHERE wake IS NOT NULL;
CREATE TABLE IF NOT EXISTS facts(backfill TEXT NOT NULL, date INTEGER NOT NULL, phase TEXT NOT NULL, processor TEXT NOT NULL,
	attempt INTEGER NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL,
	PRIMARY KEY(backfill, date, phase, processor, attempt, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS partitions(pipeline TEXT NOT NULL, date INTEGER NOT NULL, backfill TEXT NOT NULL,
	PRIMARY KEY(pipeline, date)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pipelines(name TEXT NOT NULL, version TEXT NOT NULL, doc TEXT NOT NULL,
	PRIMARY KEY(name, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forgotten(id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;`

// Open opens or creates the file.
func Open(ctx context.Context, path string) (*Store, error) {
	db, err := sqlitedb.Open(ctx, path, schema)
	if err != nil {
		return nil, err
	}
	return &Store{db: db, cache: newCache(cachedRecords)}, nil
}

// Close implements state.Store.
func (s *Store) Close() error { return s.db.Close() }

// PutPipeline implements state.Pipelines.
func (s *Store) PutPipeline(ctx context.Context, version string, p *backfill.Pipeline) error {
	doc, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("storing pipeline %s: %w", p.Name, err)
	}
	return s.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		_, err := tx.Exec("INSERT INTO pipelines(name, version, doc) VALUES(?,?,?) ON CONFLICT DO NOTHING", p.Name, version, doc)
		return wrap(err, "storing pipeline %s", p.Name)
	})
}

// Pipeline implements state.Pipelines.
func (s *Store) Pipeline(ctx context.Context, name, version string) (*backfill.Pipeline, error) {
	var doc string
	err := s.db.QueryRowContext(ctx, "SELECT doc FROM pipelines WHERE name=? AND version=?", name, version).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "no version %s of pipeline %q", version, name)
	}
	if err != nil {
		return nil, wrap(err, "reading pipeline %s", name)
	}
	p := new(backfill.Pipeline)
	return p, wrap(json.Unmarshal([]byte(doc), p), "reading pipeline %s", name)
}

// Claim implements state.Partitions.
func (s *Store) Claim(ctx context.Context, pipeline, id string, dates []backfill.Date) error {
	return s.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		for _, d := range dates {
			var owner string
			err := tx.QueryRowContext(ctx, "SELECT backfill FROM partitions WHERE pipeline=? AND date=?", pipeline, d).Scan(&owner)
			switch {
			case errors.Is(err, sql.ErrNoRows):
			case err != nil:
				return wrap(err, "claiming %s of %s", d, pipeline)
			case owner != id:
				return state.Owned(pipeline, d, owner)
			default:
				continue
			}
			if _, err := tx.Exec("INSERT INTO partitions(pipeline, date, backfill) VALUES(?,?,?)", pipeline, d, id); err != nil {
				return wrap(err, "claiming %s of %s", d, pipeline)
			}
		}
		return nil
	})
}

// Unclaim implements state.Partitions.
func (s *Store) Unclaim(ctx context.Context, pipeline, id string) error {
	return s.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		_, err := tx.Exec("DELETE FROM partitions WHERE pipeline=? AND backfill=?", pipeline, id)
		return wrap(err, "freeing the dates of %s", id)
	})
}

// Owner implements state.Partitions.
func (s *Store) Owner(ctx context.Context, pipeline string, date backfill.Date) (string, error) {
	var owner string
	err := s.db.QueryRowContext(ctx, "SELECT backfill FROM partitions WHERE pipeline=? AND date=?", pipeline, date).Scan(&owner)
	if errors.Is(err, sql.ErrNoRows) {
		return "", fault.New(fault.NotFound, "no active backfill owns %s of pipeline %q", date, pipeline)
	}
	return owner, wrap(err, "looking for the owner of %s", date)
}

// wrap adds what was being done; errors that have a kind keep it, the others are worth another try.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
