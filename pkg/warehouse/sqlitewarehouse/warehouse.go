// Package sqlitewarehouse is the embedded warehouse: one SQLite file in which a table is called
// "dataset.table", as in a pipeline file.
package sqlitewarehouse

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/sqlitedb"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Warehouse is the embedded warehouse.
type Warehouse struct{ db *sqlitedb.DB }

var _ warehouse.Warehouse = (*Warehouse)(nil)

const schema = `
CREATE TABLE IF NOT EXISTS sluice_journal(backfill TEXT NOT NULL, at INTEGER NOT NULL, id TEXT NOT NULL, event BLOB NOT NULL,
	PRIMARY KEY(backfill, at, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sluice_snapshots(name TEXT PRIMARY KEY, expires INTEGER NOT NULL) WITHOUT ROWID;`

// linger is how long a write may wait to share its transaction: the journal is long and nobody waits for it.
const linger = 5 * time.Millisecond

// Open opens or creates the file.
func Open(ctx context.Context, path string) (*Warehouse, error) {
	db, err := sqlitedb.Open(ctx, path, schema, sqlitedb.Linger(linger))
	if err != nil {
		return nil, err
	}
	w := &Warehouse{db}
	if err := w.expire(ctx, time.Now()); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return w, nil
}

// Close implements warehouse.Warehouse.
func (w *Warehouse) Close() error { return w.db.Close() }

// quote writes an identifier that has been checked.
func quote(name string) string { return `"` + name + `"` }

// Calendar implements warehouse.Warehouse.
func (w *Warehouse) Calendar(ctx context.Context, t backfill.CalendarTable) ([]backfill.Partition, error) {
	columns := []string{t.Date}
	season := "''"
	if t.Season != "" {
		columns = append(columns, t.Season)
		season = "coalesce(" + quote(t.Season) + ", '')"
	}
	if err := w.check(ctx, t.Table, columns...); err != nil {
		return nil, err
	}
	date := quote(t.Date)
	rows, err := w.db.QueryContext(ctx, fmt.Sprintf(
		"SELECT %s, min(%s) FROM %s WHERE %s IS NOT NULL GROUP BY 1 ORDER BY 1", date, season, quote(t.Table), date))
	if err != nil {
		return nil, fmt.Errorf("reading the calendar %s: %w", t.Table, err)
	}
	defer rows.Close()
	var out []backfill.Partition
	for rows.Next() {
		var day string
		var p backfill.Partition
		if err := rows.Scan(&day, &p.Season); err != nil {
			return nil, fmt.Errorf("reading the calendar %s: %w", t.Table, err)
		}
		if p.Date, err = backfill.ParseDate(day); err != nil {
			return nil, fault.New(fault.Invalid, "reading the calendar %s: %w", t.Table, err)
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// check makes sure that names are identifiers and exist, so that a mistake in a pipeline is told in its words.
func (w *Warehouse) check(ctx context.Context, table string, columns ...string) error {
	if err := warehouse.CheckColumns(columns...); err != nil {
		return err
	}
	have, err := w.Columns(ctx, table)
	if err != nil {
		return err
	}
	return warehouse.MissingColumn(table, have, columns...)
}

// Columns implements warehouse.Warehouse.
func (w *Warehouse) Columns(ctx context.Context, table string) ([]string, error) {
	if err := warehouse.CheckTable(table); err != nil {
		return nil, err
	}
	rows, err := w.db.QueryContext(ctx, "SELECT name FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, fmt.Errorf("looking at table %s: %w", table, err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("looking at table %s: %w", table, err)
		}
		out = append(out, name)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("looking at table %s: %w", table, err)
	}
	if len(out) == 0 {
		return nil, fault.New(fault.NotFound, "there is no table %s", table)
	}
	return out, nil
}

// Append implements warehouse.Warehouse.
func (w *Warehouse) Append(ctx context.Context, events ...*pb.BackfillEvent) error {
	blobs := make([][]byte, len(events))
	for i, e := range events {
		var err error
		if blobs[i], err = proto.Marshal(e); err != nil {
			return fmt.Errorf("writing the journal: %w", err)
		}
	}
	return w.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		for i, e := range events {
			_, err := tx.Exec("INSERT INTO sluice_journal(backfill, at, id, event) VALUES(?,?,?,?) ON CONFLICT DO NOTHING",
				e.GetBackfillId(), e.GetAt().AsTime().UnixNano(), e.GetId(), blobs[i])
			if err != nil {
				return fmt.Errorf("writing the journal: %w", err)
			}
		}
		return nil
	})
}

// Events implements warehouse.Warehouse.
func (w *Warehouse) Events(ctx context.Context, id string, f func(*pb.BackfillEvent) error) error {
	rows, err := w.db.QueryContext(ctx, "SELECT event FROM sluice_journal WHERE backfill=? ORDER BY at, id", id)
	if err != nil {
		return fmt.Errorf("reading the journal of %s: %w", id, err)
	}
	defer rows.Close()
	for rows.Next() {
		var blob []byte
		if err := rows.Scan(&blob); err != nil {
			return fmt.Errorf("reading the journal of %s: %w", id, err)
		}
		e := new(pb.BackfillEvent)
		if err := proto.Unmarshal(blob, e); err != nil {
			return fmt.Errorf("reading the journal of %s: %w", id, err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
	return rows.Err()
}
