package bqwarehouse

import (
	"context"
	_ "embed" // for the statements
	"strings"
	"time"

	"cloud.google.com/go/bigquery"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
)

var (
	//go:embed sql/snapshot.sql
	snapshotSQL string
	//go:embed sql/copy.sql
	copySQL string
	//go:embed sql/restore.sql
	restoreSQL string
)

// where is the condition of a slice, with its parameters.
func (w *Warehouse) where(s backfill.Slice) (string, []bigquery.QueryParameter) {
	first, last := span(s.Dates)
	cond := w.Dialect().In(s.Column)
	params := []bigquery.QueryParameter{param("days", warehouse.Days(s.Dates)), param("from", day(first)), param("to", day(last))}
	if s.PhaseColumn != "" {
		cond += " AND " + quote(s.PhaseColumn) + " IN UNNEST(@phases)"
		params = append(params, param("phases", s.Phases))
	}
	return cond, params
}

// Size implements warehouse.Warehouse. Bytes are the table's, in proportion to its rows.
func (w *Warehouse) Size(ctx context.Context, s backfill.Slice) (rows, bytes int64, err error) {
	if err := w.check(ctx, s.Table, warehouse.SliceColumns(s)...); err != nil {
		return 0, 0, err
	}
	cond, params := w.where(s)
	q, err := w.query(ctx, "rollback", "SELECT COUNT(*) FROM "+quote(s.Table)+" WHERE "+cond, params...)
	if err != nil {
		return 0, 0, err
	}
	err = w.rows(ctx, q, func(row []bigquery.Value) error { rows, _ = row[0].(int64); return nil })
	if err != nil {
		return 0, 0, wrap(err, "counting rows of %s", s.Table)
	}
	meta, err := w.table(s.Table).Metadata(ctx)
	if err != nil {
		return 0, 0, wrap(err, "looking at table %s", s.Table)
	}
	if meta.NumRows > 0 {
		bytes = int64(float64(meta.NumBytes) / float64(meta.NumRows) * float64(rows))
	}
	return rows, bytes, nil
}

// Snapshot implements warehouse.Warehouse.
func (w *Warehouse) Snapshot(ctx context.Context, table, snapshot string, expires time.Time) error {
	if err := w.check(ctx, table); err != nil {
		return err
	}
	if _, err := w.Columns(ctx, snapshot); !fault.Is(err, fault.NotFound) {
		return err // it is there already, or nobody knows
	}
	sql := snapshotSQL
	if w.opts.Emulator {
		sql = copySQL
	}
	sql = strings.NewReplacer("{table}", quote(table), "{snapshot}", quote(snapshot), "{expires}", expires.UTC().Format(time.DateTime)).Replace(sql)
	q, err := w.query(ctx, "rollback", sql)
	if err != nil {
		return err
	}
	return wrap(w.rows(ctx, q, func([]bigquery.Value) error { return nil }), "taking a snapshot of %s", table)
}

// Delete implements warehouse.Warehouse.
func (w *Warehouse) Delete(ctx context.Context, s backfill.Slice) (int64, error) {
	n, _, err := w.Size(ctx, s)
	if err != nil || n == 0 {
		return 0, err
	}
	cond, params := w.where(s)
	q, err := w.query(ctx, "rollback", "DELETE FROM "+quote(s.Table)+" WHERE "+cond, params...)
	if err != nil {
		return 0, err
	}
	return n, wrap(w.rows(ctx, q, func([]bigquery.Value) error { return nil }), "deleting rows of %s", s.Table)
}

// Restore implements warehouse.Warehouse.
func (w *Warehouse) Restore(ctx context.Context, s backfill.Slice, snapshot string) (int64, error) {
	if err := w.check(ctx, s.Table, warehouse.SliceColumns(s)...); err != nil {
		return 0, err
	}
	if _, err := w.Columns(ctx, snapshot); err != nil {
		return 0, fault.New(fault.KindOf(err), "the snapshot is gone: %w", err)
	}
	cond, params := w.where(s)
	sql := strings.NewReplacer("{table}", quote(s.Table), "{snapshot}", quote(snapshot), "{where}", cond).Replace(restoreSQL)
	if w.opts.Emulator {
		sql = strings.NewReplacer("BEGIN TRANSACTION;\n", "", "COMMIT TRANSACTION;\n", "").Replace(sql)
	}
	q, err := w.query(ctx, "rollback", sql, params...)
	if err != nil {
		return 0, err
	}
	if err := w.rows(ctx, q, func([]bigquery.Value) error { return nil }); err != nil {
		return 0, wrap(err, "putting rows of %s back", s.Table)
	}
	n, _, err := w.Size(ctx, s)
	return n, err
}
