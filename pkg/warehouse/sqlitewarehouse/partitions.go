package sqlitewarehouse

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/sqlitedb"
	"sluice.dev/pkg/warehouse"
)

// where is the condition of a slice, with its arguments.
func where(s backfill.Slice) (string, []any, error) {
	days, err := json.Marshal(warehouse.Days(s.Dates))
	if err != nil {
		return "", nil, fmt.Errorf("choosing rows of %s: %w", s.Table, err)
	}
	cond, args := quote(s.Column)+" IN (SELECT value FROM json_each(?))", []any{string(days)}
	if s.PhaseColumn != "" {
		phases, err := json.Marshal(s.Phases)
		if err != nil {
			return "", nil, fmt.Errorf("choosing rows of %s: %w", s.Table, err)
		}
		cond, args = cond+" AND "+quote(s.PhaseColumn)+" IN (SELECT value FROM json_each(?))", append(args, string(phases))
	}
	return cond, args, nil
}

// Size implements warehouse.Warehouse. Bytes are those of the values.
func (w *Warehouse) Size(ctx context.Context, s backfill.Slice) (rows, bytes int64, err error) {
	if err := w.check(ctx, s.Table, warehouse.SliceColumns(s)...); err != nil {
		return 0, 0, err
	}
	columns, err := w.Columns(ctx, s.Table)
	if err != nil {
		return 0, 0, err
	}
	lengths := make([]string, len(columns))
	for i, c := range columns {
		lengths[i] = "coalesce(length(" + quote(c) + "), 0)"
	}
	cond, args, err := where(s)
	if err != nil {
		return 0, 0, err
	}
	err = w.db.QueryRowContext(ctx, fmt.Sprintf("SELECT count(*), coalesce(sum(%s), 0) FROM %s WHERE %s", strings.Join(lengths, "+"), quote(s.Table), cond), args...).Scan(&rows, &bytes)
	if err != nil {
		return 0, 0, fmt.Errorf("counting rows of %s: %w", s.Table, err)
	}
	return rows, bytes, nil
}

// Snapshot implements warehouse.Warehouse.
func (w *Warehouse) Snapshot(ctx context.Context, table, snapshot string, expires time.Time) error {
	columns, err := w.list(ctx, table)
	if err != nil {
		return err
	}
	if err := warehouse.CheckTable(snapshot); err != nil {
		return err
	}
	if err := w.expire(ctx, time.Now()); err != nil {
		return err
	}
	return w.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		_, err := tx.Exec("CREATE TABLE IF NOT EXISTS " + quote(snapshot) + " AS SELECT " + columns + " FROM " + quote(table))
		if err == nil {
			_, err = tx.Exec("INSERT INTO sluice_snapshots(name, expires) VALUES(?,?) ON CONFLICT DO NOTHING", snapshot, expires.UnixNano())
		}
		if err != nil {
			return fmt.Errorf("taking a snapshot of %s: %w", table, err)
		}
		return nil
	})
}

// expire drops the snapshots whose time has come.
func (w *Warehouse) expire(ctx context.Context, now time.Time) error {
	return w.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		rows, err := tx.QueryContext(ctx, "SELECT name FROM sluice_snapshots WHERE expires <= ?", now.UnixNano())
		if err != nil {
			return fmt.Errorf("looking for old snapshots: %w", err)
		}
		defer rows.Close()
		var names []string
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return fmt.Errorf("looking for old snapshots: %w", err)
			}
			names = append(names, name)
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("looking for old snapshots: %w", err)
		}
		for _, name := range names {
			if _, err := tx.Exec("DROP TABLE IF EXISTS " + quote(name)); err != nil {
				return fmt.Errorf("dropping the snapshot %s: %w", name, err)
			}
			if _, err := tx.Exec("DELETE FROM sluice_snapshots WHERE name=?", name); err != nil {
				return fmt.Errorf("dropping the snapshot %s: %w", name, err)
			}
		}
		return nil
	})
}

// Delete implements warehouse.Warehouse.
func (w *Warehouse) Delete(ctx context.Context, s backfill.Slice) (int64, error) {
	if err := w.check(ctx, s.Table, warehouse.SliceColumns(s)...); err != nil {
		return 0, err
	}
	var n int64
	err := w.db.Write(ctx, func(tx *sqlitedb.Tx) (err error) {
		n, err = remove(tx, s)
		return err
	})
	return n, err
}

func remove(tx *sqlitedb.Tx, s backfill.Slice) (int64, error) {
	cond, args, err := where(s)
	if err != nil {
		return 0, err
	}
	res, err := tx.Exec("DELETE FROM "+quote(s.Table)+" WHERE "+cond, args...)
	if err != nil {
		return 0, fmt.Errorf("deleting rows of %s: %w", s.Table, err)
	}
	return res.RowsAffected()
}

// Restore implements warehouse.Warehouse.
func (w *Warehouse) Restore(ctx context.Context, s backfill.Slice, snapshot string) (int64, error) {
	if err := w.check(ctx, s.Table, warehouse.SliceColumns(s)...); err != nil {
		return 0, err
	}
	if _, err := w.Columns(ctx, snapshot); err != nil {
		return 0, fault.New(fault.KindOf(err), "the snapshot is gone: %w", err)
	}
	columns, err := w.list(ctx, s.Table)
	if err != nil {
		return 0, err
	}
	cond, args, err := where(s)
	if err != nil {
		return 0, err
	}
	var n int64
	err = w.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		if _, err := remove(tx, s); err != nil {
			return err
		}
		res, err := tx.Exec("INSERT INTO "+quote(s.Table)+"("+columns+") SELECT "+columns+" FROM "+quote(snapshot)+" WHERE "+cond, args...)
		if err != nil {
			return fmt.Errorf("putting rows of %s back: %w", s.Table, err)
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}

// list is the columns of a table as SQL.
func (w *Warehouse) list(ctx context.Context, table string) (string, error) {
	columns, err := w.Columns(ctx, table)
	for i, c := range columns {
		columns[i] = quote(c)
	}
	return strings.Join(columns, ", "), err
}
