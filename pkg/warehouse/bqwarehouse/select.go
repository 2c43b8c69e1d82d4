package bqwarehouse

import (
	"context"
	"strings"
	"time"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/civil"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/warehouse"
)

// Dialect implements warehouse.Warehouse. BigQuery prunes partitions by constants and parameters only, so In gives
// the first and the last date besides the list. The list is text, because the emulator takes no array of dates.
func (w *Warehouse) Dialect() warehouse.Dialect {
	day := func(c string) string { return "CAST(" + quote(c) + " AS STRING)" }
	return warehouse.Dialect{
		Quote: quote, Day: day,
		In: func(c string) string {
			return "(" + quote(c) + " BETWEEN @from AND @to AND " + day(c) + " IN UNNEST(@days))"
		},
		Number: func(c string) string { return "CAST(" + quote(c) + " AS FLOAT64)" },
	}
}

// span is the first and the last of dates.
func span(dates []backfill.Date) (first, last backfill.Date) {
	for i, d := range dates {
		if i == 0 || d < first {
			first = d
		}
		last = max(last, d)
	}
	return first, last
}

// Select implements warehouse.Warehouse. A query gets those of the parameters @dates, @days, @from and @to that it
// uses.
func (w *Warehouse) Select(ctx context.Context, purpose, query string, dates []backfill.Date, f func(columns []string, row []any) error) error {
	first, last := span(dates)
	days := make([]civil.Date, len(dates))
	for i, d := range dates {
		days[i] = day(d)
	}
	var params []bigquery.QueryParameter
	for _, p := range []bigquery.QueryParameter{param("dates", days), param("days", warehouse.Days(dates)), param("from", day(first)), param("to", day(last))} {
		if strings.Contains(query, "@"+p.Name) {
			params = append(params, p)
		}
	}
	q, err := w.query(ctx, purpose, query, params...)
	if err != nil {
		return err
	}
	it, err := q.Read(ctx)
	if err != nil {
		return wrap(err, "%s", purpose)
	}
	return each(it, func(row []bigquery.Value) error {
		columns, values := make([]string, len(row)), make([]any, len(row))
		for i, v := range row {
			columns[i] = it.Schema[i].Name
			switch v := v.(type) {
			case nil, string, int64, float64:
				values[i] = v
			case time.Time:
				values[i] = v.UTC().Format(time.RFC3339Nano)
			default:
				values[i] = text(v)
			}
		}
		return f(columns, values)
	})
}
