package sqlitewarehouse

import (
	"context"
	"fmt"
	"strings"

	"sluice.dev/pkg/sqlitedb"
	"sluice.dev/pkg/warehouse"
)

// Table is a table of the platform's, which the example platform and tests create and fill.
type Table struct {
	Name    string
	Columns []string
	// Partition is the column by which ReplacePartition replaces rows.
	Partition string
}

// CreateTable makes the table unless it is there.
func (w *Warehouse) CreateTable(ctx context.Context, t Table) error {
	if err := warehouse.CheckTable(t.Name); err != nil {
		return err
	}
	if err := warehouse.CheckColumns(append([]string{t.Partition}, t.Columns...)...); err != nil {
		return err
	}
	quoted := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		quoted[i] = quote(c)
	}
	return w.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		_, err := tx.Exec("CREATE TABLE IF NOT EXISTS " + quote(t.Name) + "(" + strings.Join(quoted, ", ") + ")")
		if err == nil {
			index := quote("by_partition_" + t.Name)
			_, err = tx.Exec("CREATE INDEX IF NOT EXISTS " + index + " ON " + quote(t.Name) + "(" + quote(t.Partition) + ")")
		}
		if err != nil {
			return fmt.Errorf("creating table %s: %w", t.Name, err)
		}
		return nil
	})
}

// ReplacePartition replaces the rows of one partition. Rows hold a value per column of the table.
func (w *Warehouse) ReplacePartition(ctx context.Context, t Table, partition string, rows [][]any) error {
	return w.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		if _, err := tx.Exec("DELETE FROM "+quote(t.Name)+" WHERE "+quote(t.Partition)+"=?", partition); err != nil {
			return fmt.Errorf("emptying %s of %s: %w", partition, t.Name, err)
		}
		return insert(tx, t, rows)
	})
}

// Insert adds rows.
func (w *Warehouse) Insert(ctx context.Context, t Table, rows [][]any) error {
	return w.db.Write(ctx, func(tx *sqlitedb.Tx) error { return insert(tx, t, rows) })
}

// insert writes many rows per statement, up to SQLite's limit on parameters.
func insert(tx *sqlitedb.Tx, t Table, rows [][]any) error {
	const parameters = 900
	one := "(" + strings.TrimSuffix(strings.Repeat("?,", len(t.Columns)), ",") + ")"
	for len(rows) > 0 {
		n := min(len(rows), max(1, parameters/len(t.Columns)))
		args := make([]any, 0, n*len(t.Columns))
		for _, r := range rows[:n] {
			args = append(args, r...)
		}
		query := "INSERT INTO " + quote(t.Name) + " VALUES " + strings.TrimSuffix(strings.Repeat(one+",", n), ",")
		if _, err := tx.Exec(query, args...); err != nil {
			return fmt.Errorf("writing to %s: %w", t.Name, err)
		}
		rows = rows[n:]
	}
	return nil
}

// Count is the number of rows for which a column has a value; an empty column counts all rows.
func (w *Warehouse) Count(ctx context.Context, table, column, value string) (int, error) {
	query, args := "SELECT count(*) FROM "+quote(table), []any{}
	if column != "" {
		query, args = query+" WHERE "+quote(column)+"=?", []any{value}
	}
	if err := w.check(ctx, table); err != nil {
		return 0, err
	}
	var n int
	if err := w.db.QueryRowContext(ctx, query, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting %s: %w", table, err)
	}
	return n, nil
}
