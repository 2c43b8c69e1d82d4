package sqlitewarehouse

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/sqlitedb"
	"sluice.dev/pkg/warehouse"
)

// Done implements warehouse.Warehouse.
func (w *Warehouse) Done(ctx context.Context, h backfill.HistorySource, from, to backfill.Date, f func(warehouse.Run)) error {
	if err := w.check(ctx, h.Table, h.Processor, h.Date, h.Phase, h.Status); err != nil {
		return err
	}
	args := []any{from.String(), to.String()}
	words := slices.Concat(h.Succeeded, h.Partial)
	for _, s := range words {
		args = append(args, s)
	}
	query := fmt.Sprintf("SELECT DISTINCT %[1]s, %[2]s, %[3]s, %[5]s FROM %[4]s WHERE %[1]s BETWEEN ? AND ? AND %[5]s IN (%[6]s)",
		quote(h.Date), quote(h.Phase), quote(h.Processor), quote(h.Table), quote(h.Status),
		strings.TrimSuffix(strings.Repeat("?,", len(words)), ","))
	rows, err := w.db.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("reading the history %s: %w", h.Table, err)
	}
	defer rows.Close()
	for rows.Next() {
		var day, status string
		var r warehouse.Run
		if err := rows.Scan(&day, &r.Phase, &r.Processor, &status); err != nil {
			return fmt.Errorf("reading the history %s: %w", h.Table, err)
		}
		if r.Date, err = backfill.ParseDate(day); err != nil {
			return fault.New(fault.Invalid, "reading the history %s: %w", h.Table, err)
		}
		r.Partial = slices.Contains(h.Partial, status)
		f(r)
	}
	return rows.Err()
}

// Durations implements warehouse.Warehouse.
func (w *Warehouse) Durations(ctx context.Context, h backfill.HistorySource, from, to backfill.Date) ([]warehouse.Duration, error) {
	if h.Duration == "" {
		return nil, nil
	}
	if err := w.check(ctx, h.Table, h.Processor, h.Date, h.Phase, h.Status, h.Duration); err != nil {
		return nil, err
	}
	args := []any{from.String(), to.String()}
	for _, s := range h.Succeeded {
		args = append(args, s)
	}
	seconds := "CAST(" + quote(h.Duration) + " AS REAL)"
	rows, err := w.db.QueryContext(ctx, fmt.Sprintf(
		"SELECT phase, processor, n, min(CASE WHEN 2*r >= n THEN s END), min(CASE WHEN 10*r >= 9*n THEN s END) FROM ("+
			"SELECT %[1]s AS phase, %[2]s AS processor, %[3]s AS s, row_number() OVER (PARTITION BY %[1]s, %[2]s ORDER BY %[3]s) AS r, "+
			"count(*) OVER (PARTITION BY %[1]s, %[2]s) AS n FROM %[4]s WHERE %[5]s BETWEEN ? AND ? AND %[6]s IN (%[7]s) AND %[3]s > 0"+
			") GROUP BY phase, processor, n ORDER BY phase, processor",
		quote(h.Phase), quote(h.Processor), seconds, quote(h.Table), quote(h.Date), quote(h.Status),
		strings.TrimSuffix(strings.Repeat("?,", len(h.Succeeded)), ",")), args...)
	if err != nil {
		return nil, fmt.Errorf("reading durations from %s: %w", h.Table, err)
	}
	defer rows.Close()
	var out []warehouse.Duration
	for rows.Next() {
		var d warehouse.Duration
		if err := rows.Scan(&d.Phase, &d.Processor, &d.Runs, &d.P50, &d.P90); err != nil {
			return nil, fmt.Errorf("reading durations from %s: %w", h.Table, err)
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

// Recorded implements warehouse.Warehouse. Times are text in the file, so they are compared here.
func (w *Warehouse) Recorded(ctx context.Context, h backfill.HistorySource, from, to backfill.Date, since time.Time, f func(warehouse.Recorded)) error {
	columns := []string{h.Date, h.Phase, h.Processor, h.Status, h.Finished}
	if err := w.check(ctx, h.Table, columns...); err != nil {
		return err
	}
	names := make([]string, 0, len(columns)+3)
	for _, c := range columns {
		names = append(names, quote(c))
	}
	for _, c := range []string{h.RunID, h.Started, h.Records} {
		if c == "" {
			names = append(names, "NULL")
		} else {
			names = append(names, quote(c))
		}
	}
	rows, err := w.db.QueryContext(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE %s BETWEEN ? AND ? AND %s IS NOT NULL",
		strings.Join(names, ", "), quote(h.Table), quote(h.Date), quote(h.Finished)), from.String(), to.String())
	if err != nil {
		return fmt.Errorf("reading the history %s: %w", h.Table, err)
	}
	defer rows.Close()
	for rows.Next() {
		var r warehouse.Recorded
		var day, finished string
		var id, started sql.NullString
		var records sql.NullInt64
		if err := rows.Scan(&day, &r.Phase, &r.Processor, &r.Status, &finished, &id, &started, &records); err != nil {
			return fmt.Errorf("reading the history %s: %w", h.Table, err)
		}
		if r.Date, err = backfill.ParseDate(day); err == nil {
			r.Finished, err = time.Parse(time.RFC3339Nano, finished)
		}
		if err != nil {
			return fault.New(fault.Invalid, "reading the history %s: %w", h.Table, err)
		}
		r.Started, _ = time.Parse(time.RFC3339Nano, started.String) // not every run says so
		r.ID, r.Records = id.String, records.Int64
		if !r.Finished.Before(since) {
			f(r)
		}
	}
	return rows.Err()
}

// Record implements warehouse.Warehouse.
func (w *Warehouse) Record(ctx context.Context, h backfill.HistorySource, runs []warehouse.Recorded) error {
	if len(runs) == 0 {
		return ctx.Err()
	}
	columns, _ := warehouse.HistoryColumns(h, runs[0])
	if err := w.check(ctx, h.Table, columns...); err != nil {
		return err
	}
	quoted, marks := make([]string, len(columns)), strings.TrimSuffix(strings.Repeat("?,", len(columns)), ",")
	for i, c := range columns {
		quoted[i] = quote(c)
	}
	query := fmt.Sprintf("INSERT INTO %[1]s(%[2]s) SELECT %[3]s WHERE NOT EXISTS (SELECT 1 FROM %[1]s WHERE %[4]s=? AND %[5]s=?)",
		quote(h.Table), strings.Join(quoted, ", "), marks, quote(h.Date), quote(h.RunID))
	return w.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		for _, r := range runs {
			_, values := warehouse.HistoryColumns(h, r)
			for i, v := range values {
				switch v := v.(type) {
				case backfill.Date:
					values[i] = v.String()
				case time.Time:
					values[i] = v.UTC().Format(time.RFC3339Nano)
				}
			}
			if _, err := tx.Exec(query, append(values, r.Date.String(), r.ID)...); err != nil {
				return fmt.Errorf("writing the history %s: %w", h.Table, err)
			}
		}
		return nil
	})
}
