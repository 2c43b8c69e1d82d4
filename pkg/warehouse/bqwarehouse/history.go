package bqwarehouse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/civil"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
)

func param(name string, v any) bigquery.QueryParameter {
	return bigquery.QueryParameter{Name: name, Value: v}
}

func day(d backfill.Date) civil.Date { return civil.DateOf(d.Time()) }

// Done implements warehouse.Warehouse.
func (w *Warehouse) Done(ctx context.Context, h backfill.HistorySource, from, to backfill.Date, f func(warehouse.Run)) error {
	if err := w.check(ctx, h.Table, h.Processor, h.Date, h.Phase, h.Status); err != nil {
		return err
	}
	q, err := w.query(ctx, "history", fmt.Sprintf(
		"SELECT DISTINCT CAST(%[1]s AS STRING), %[2]s, %[3]s, %[5]s FROM %[4]s WHERE %[1]s BETWEEN @from AND @to AND %[5]s IN UNNEST(@succeeded)",
		quote(h.Date), quote(h.Phase), quote(h.Processor), quote(h.Table), quote(h.Status)),
		bigquery.QueryParameter{Name: "from", Value: civil.DateOf(from.Time())}, bigquery.QueryParameter{Name: "to", Value: civil.DateOf(to.Time())},
		bigquery.QueryParameter{Name: "succeeded", Value: slices.Concat(h.Succeeded, h.Partial)})
	if err != nil {
		return err
	}
	return w.rows(ctx, q, func(row []bigquery.Value) error {
		d, err := backfill.ParseDate(text(row[0]))
		if err != nil {
			return fault.New(fault.Invalid, "reading the history %s: %w", h.Table, err)
		}
		f(warehouse.Run{Date: d, Phase: text(row[1]), Processor: text(row[2]), Partial: slices.Contains(h.Partial, text(row[3]))})
		return nil
	})
}

// Durations implements warehouse.Warehouse.
func (w *Warehouse) Durations(ctx context.Context, h backfill.HistorySource, from, to backfill.Date) ([]warehouse.Duration, error) {
	if h.Duration == "" {
		return nil, nil
	}
	if err := w.check(ctx, h.Table, h.Processor, h.Date, h.Phase, h.Status, h.Duration); err != nil {
		return nil, err
	}
	q, err := w.query(ctx, "durations", fmt.Sprintf(
		"SELECT phase, processor, n, MIN(IF(2*r >= n, s, NULL)), MIN(IF(10*r >= 9*n, s, NULL)) FROM ("+
			"SELECT phase, processor, s, ROW_NUMBER() OVER (PARTITION BY phase, processor ORDER BY s) AS r, "+
			"COUNT(*) OVER (PARTITION BY phase, processor) AS n FROM ("+
			"SELECT %[1]s AS phase, %[2]s AS processor, CAST(%[3]s AS FLOAT64) AS s FROM %[4]s "+
			"WHERE %[5]s BETWEEN @from AND @to AND %[6]s IN UNNEST(@succeeded)) WHERE s > 0"+
			") GROUP BY phase, processor, n ORDER BY phase, processor",
		quote(h.Phase), quote(h.Processor), quote(h.Duration), quote(h.Table), quote(h.Date), quote(h.Status)),
		bigquery.QueryParameter{Name: "from", Value: civil.DateOf(from.Time())}, bigquery.QueryParameter{Name: "to", Value: civil.DateOf(to.Time())},
		bigquery.QueryParameter{Name: "succeeded", Value: h.Succeeded})
	if err != nil {
		return nil, err
	}
	var out []warehouse.Duration
	err = w.rows(ctx, q, func(row []bigquery.Value) error {
		d := warehouse.Duration{Phase: text(row[0]), Processor: text(row[1])}
		runs, _ := row[2].(int64)
		d.Runs = int(runs)
		d.P50, _ = row[3].(float64)
		d.P90, _ = row[4].(float64)
		out = append(out, d)
		return nil
	})
	return out, err
}

// Recorded implements warehouse.Warehouse.
func (w *Warehouse) Recorded(ctx context.Context, h backfill.HistorySource, from, to backfill.Date, since time.Time, f func(warehouse.Recorded)) error {
	if err := w.check(ctx, h.Table, h.Date, h.Phase, h.Processor, h.Status, h.Finished); err != nil {
		return err
	}
	or := func(column, absent string) string {
		if column == "" {
			return absent
		}
		return quote(column)
	}
	q, err := w.query(ctx, "history", fmt.Sprintf(
		"SELECT CAST(%[1]s AS STRING), %[2]s, %[3]s, %[4]s, %[5]s, CAST(%[6]s AS STRING), %[7]s, CAST(%[8]s AS INT64) FROM %[9]s WHERE %[1]s BETWEEN @from AND @to AND %[5]s >= @since",
		quote(h.Date), quote(h.Phase), quote(h.Processor), quote(h.Status), quote(h.Finished), or(h.RunID, "NULL"),
		or(h.Started, quote(h.Finished)), or(h.Records, "NULL"), quote(h.Table)),
		param("from", day(from)), param("to", day(to)), param("since", since.UTC()))
	if err != nil {
		return err
	}
	return w.rows(ctx, q, func(row []bigquery.Value) error {
		r := warehouse.Recorded{Run: warehouse.Run{Phase: text(row[1]), Processor: text(row[2])}, Status: text(row[3]), ID: text(row[5])}
		var err error
		if r.Date, err = backfill.ParseDate(text(row[0])); err != nil {
			return fault.New(fault.Invalid, "reading the history %s: %w", h.Table, err)
		}
		r.Finished, _ = row[4].(time.Time)
		r.Started, _ = row[6].(time.Time)
		r.Records, _ = row[7].(int64)
		f(r)
		return nil
	})
}

// recordAtOnce bounds the rows of one statement: BigQuery takes 10,000 parameters.
const recordAtOnce = 500

// Record implements warehouse.Warehouse.
func (w *Warehouse) Record(ctx context.Context, h backfill.HistorySource, runs []warehouse.Recorded) error {
	if len(runs) == 0 {
		return ctx.Err()
	}
	columns, _ := warehouse.HistoryColumns(h, runs[0])
	if err := w.check(ctx, h.Table, columns...); err != nil {
		return err
	}
	for len(runs) > 0 {
		n := min(len(runs), recordAtOnce)
		if err := w.record(ctx, h, columns, runs[:n]); err != nil {
			return err
		}
		runs = runs[n:]
	}
	return nil
}

// record adds rows that are not there yet, in one statement: the dates' partitions are looked through for their ids.
func (w *Warehouse) record(ctx context.Context, h backfill.HistorySource, columns []string, runs []warehouse.Recorded) error {
	var params []bigquery.QueryParameter
	rows := make([]string, len(runs))
	first, last := runs[0].Date, runs[0].Date
	for i, r := range runs {
		first, last = min(first, r.Date), max(last, r.Date)
		_, values := warehouse.HistoryColumns(h, r)
		names := make([]string, len(values))
		for j, v := range values {
			name := fmt.Sprintf("p%d_%d", i, j)
			mark := "@" + name
			switch x := v.(type) {
			case backfill.Date:
				v, mark = x.String(), "CAST("+mark+" AS DATE)"
			case time.Time:
				v = x.UTC().Truncate(time.Microsecond)
			}
			names[j] = mark + " AS " + quote(columns[j])
			params = append(params, param(name, v))
		}
		rows[i] = "SELECT " + strings.Join(names, ", ")
	}
	quoted := make([]string, len(columns))
	for i, c := range columns {
		quoted[i] = quote(c)
	}
	list := strings.Join(quoted, ", ")
	q, err := w.query(ctx, "history", fmt.Sprintf(
		"INSERT INTO %[1]s (%[2]s) SELECT %[2]s FROM (%[3]s) AS fresh WHERE %[4]s NOT IN (SELECT CAST(%[4]s AS STRING) FROM %[1]s WHERE %[5]s BETWEEN @first AND @last AND %[4]s IS NOT NULL)",
		quote(h.Table), list, strings.Join(rows, " UNION ALL "), quote(h.RunID), quote(h.Date)),
		append(params, param("first", day(first)), param("last", day(last)))...)
	if err != nil {
		return err
	}
	return wrap(w.rows(ctx, q, func([]bigquery.Value) error { return nil }), "writing the history %s", h.Table)
}
