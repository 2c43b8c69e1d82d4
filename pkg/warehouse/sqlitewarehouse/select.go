package sqlitewarehouse

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
)

// Dialect implements warehouse.Warehouse. Dates are text here.
func (w *Warehouse) Dialect() warehouse.Dialect {
	return warehouse.Dialect{
		Quote: quote, Day: quote,
		In:     func(c string) string { return quote(c) + " IN UNNEST(@dates)" },
		Number: func(c string) string { return "CAST(" + quote(c) + " AS REAL)" },
	}
}

// What differs between BigQuery's SQL and SQLite's, as far as queries of checks need it.
var (
	inDates   = regexp.MustCompile(`(?i)\bIN\s+UNNEST\(\s*@dates\s*\)`)
	fromDates = regexp.MustCompile(`(?i)\bUNNEST\(\s*@dates\s*\)\s+(?:AS\s+)?([A-Za-z_]\w*)`)
	dotted    = regexp.MustCompile("[`\"]?\\b[A-Za-z_]\\w*\\.[A-Za-z_]\\w*\\b[`\"]?")
)

// Select implements warehouse.Warehouse. Queries are written as for BigQuery: dataset.table becomes the table of
// that name, and UNNEST(@dates) a table of the dates.
func (w *Warehouse) Select(ctx context.Context, purpose, query string, dates []backfill.Date, f func(columns []string, row []any) error) error {
	tables, err := w.tables(ctx)
	if err != nil {
		return err
	}
	query = inDates.ReplaceAllString(query, "IN (SELECT value FROM json_each(@dates))")
	query = fromDates.ReplaceAllString(query, "(SELECT value AS $1 FROM json_each(@dates))")
	query = dotted.ReplaceAllStringFunc(query, func(name string) string {
		if plain := strings.Trim(name, "`\""); tables[plain] {
			return quote(plain)
		}
		return name
	})
	days, err := json.Marshal(warehouse.Days(dates))
	if err != nil {
		return fmt.Errorf("%s: %w", purpose, err)
	}
	rows, err := w.db.QueryContext(ctx, query, sql.Named("dates", string(days)))
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fault.New(kindOf(err), "%s: the query cannot be run: %w", purpose, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return fmt.Errorf("%s: %w", purpose, err)
	}
	row, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range row {
		into[i] = &row[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("%s: %w", purpose, err)
		}
		if err := f(columns, row); err != nil {
			return err
		}
	}
	return rows.Err()
}

func kindOf(err error) fault.Kind {
	switch s := err.Error(); {
	case strings.Contains(s, "no such table"), strings.Contains(s, "no such column"):
		return fault.NotFound
	case strings.Contains(s, "is closed"):
		return fault.Unavailable
	default:
		return fault.Invalid
	}
}

// tables are the names of all tables.
func (w *Warehouse) tables(ctx context.Context) (map[string]bool, error) {
	rows, err := w.db.QueryContext(ctx, "SELECT name FROM sqlite_master WHERE type='table'")
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	defer rows.Close()
	out := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("listing tables: %w", err)
		}
		out[name] = true
	}
	return out, rows.Err()
}
