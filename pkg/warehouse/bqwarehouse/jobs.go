package bqwarehouse

import (
	"context"
	_ "embed" // for the queries
	"strings"
	"time"

	"cloud.google.com/go/bigquery"

	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
)

var (
	//go:embed sql/billed.sql
	billedSQL string
	//go:embed sql/queue.sql
	queueSQL string
)

// JobsView is the view with the statistics of a project's jobs in a region, such as eu or us-west2.
func JobsView(project, region string) string {
	return quote(project) + "." + quote("region-"+strings.ToLower(region)) + ".INFORMATION_SCHEMA.JOBS"
}

// statistics asks one question of the view and returns its only row.
func (w *Warehouse) statistics(ctx context.Context, sql string, params ...bigquery.QueryParameter) ([]bigquery.Value, error) {
	if w.opts.JobsView == "" {
		return nil, fault.New(fault.Unsupported, "this warehouse has no job statistics")
	}
	q, err := w.query(ctx, "statistics", strings.ReplaceAll(sql, "{jobs}", w.opts.JobsView), params...)
	if err != nil {
		return nil, err
	}
	var out []bigquery.Value
	err = w.rows(ctx, q, func(row []bigquery.Value) error { out = row; return nil })
	if err == nil && out == nil {
		err = fault.New(fault.Unavailable, "the job statistics have no answer")
	}
	return out, wrap(err, "reading job statistics")
}

// Billed implements warehouse.Warehouse.
func (w *Warehouse) Billed(ctx context.Context, backfill string, accounts []string, since, until time.Time) (int64, error) {
	if until.IsZero() {
		until = time.Now().Add(time.Hour)
	}
	row, err := w.statistics(ctx, billedSQL, param("backfill", label(backfill)), param("accounts", append([]string{}, accounts...)),
		param("since", since.UTC()), param("until", until.UTC()))
	if err != nil {
		return 0, err
	}
	n, _ := row[0].(int64)
	return n, nil
}

// Queue implements warehouse.Warehouse.
func (w *Warehouse) Queue(ctx context.Context, since time.Time) (warehouse.Queue, error) {
	row, err := w.statistics(ctx, queueSQL, param("since", since.UTC()), param("now", time.Now().UTC()))
	if err != nil {
		return warehouse.Queue{}, err
	}
	pending, _ := row[0].(int64)
	wait, _ := row[1].(float64)
	return warehouse.Queue{Pending: int(pending), Wait: time.Duration(wait * float64(time.Second))}, nil
}
