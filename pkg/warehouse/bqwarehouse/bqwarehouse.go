// Package bqwarehouse is the warehouse in BigQuery. Every job is labelled with the backfill and the purpose,
// bounded in bytes and in time. Names are checked as identifiers before they reach SQL, values are parameters.
package bqwarehouse

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"cloud.google.com/go/bigquery"
	"cloud.google.com/go/civil"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
)

// Options says where and within which bounds.
type Options struct {
	Project string
	// Journal is the table of the journal, dataset.table; it must exist.
	Journal string
	// MaxBytesBilled bounds each query; 0 is no bound.
	MaxBytesBilled int64
	// JobTimeout bounds each job; 0 means 5 minutes.
	JobTimeout time.Duration
	// JobsView is the view with the statistics of the project's jobs, `region-eu`.INFORMATION_SCHEMA.JOBS; empty
	// where there is none, as in the emulator.
	JobsView string
	// Emulator is for what has neither snapshots nor transactions that others survive: tables are copied instead, and
	// put back by two statements.
	Emulator bool
}

// Warehouse is BigQuery in one project.
type Warehouse struct {
	client *bigquery.Client
	opts   Options
	closed atomic.Bool

	queries atomic.Int64
}

var _ warehouse.Warehouse = (*Warehouse)(nil)

// Open connects to BigQuery.
func Open(ctx context.Context, o Options, options ...option.ClientOption) (*Warehouse, error) {
	if o.JobTimeout == 0 {
		o.JobTimeout = 5 * time.Minute
	}
	if err := warehouse.CheckTable(o.Journal); err != nil {
		return nil, fmt.Errorf("the journal: %w", err)
	}
	client, err := bigquery.NewClient(ctx, o.Project, options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to BigQuery: %w", err)
	}
	return &Warehouse{client: client, opts: o}, nil
}

// Queries counts the queries since Open.
func (w *Warehouse) Queries() int64 { return w.queries.Load() }

// Close implements warehouse.Warehouse.
func (w *Warehouse) Close() error {
	if w.closed.Swap(true) {
		return nil
	}
	if err := w.client.Close(); err != nil {
		return fmt.Errorf("disconnecting from BigQuery: %w", err)
	}
	return nil
}

var notInLabels = regexp.MustCompile(`[^a-z0-9_-]+`)

// label is a text as a label may hold it: up to 63 of a-z, 0-9, _ and -.
func label(s string) string {
	s = notInLabels.ReplaceAllString(strings.ToLower(s), "_")
	return s[:min(len(s), 63)]
}

// query prepares a labelled and bounded query.
func (w *Warehouse) query(ctx context.Context, purpose, sql string, params ...bigquery.QueryParameter) (*bigquery.Query, error) {
	if w.closed.Load() {
		return nil, fault.New(fault.Unavailable, "the warehouse is closed")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w.queries.Add(1)
	q := w.client.Query(sql)
	q.Parameters = params
	q.MaxBytesBilled = w.opts.MaxBytesBilled
	q.JobTimeout = w.opts.JobTimeout
	q.Labels = map[string]string{"sluice_purpose": label(purpose)}
	if id := warehouse.BackfillOf(ctx); id != "" {
		q.Labels["sluice_backfill"] = label(id)
	}
	return q, nil
}

// rows runs a query and calls f for every row, however many pages there are.
func (w *Warehouse) rows(ctx context.Context, q *bigquery.Query, f func([]bigquery.Value) error) error {
	it, err := q.Read(ctx)
	if err != nil {
		return wrap(err, "asking BigQuery")
	}
	return each(it, f)
}

func each(it *bigquery.RowIterator, f func([]bigquery.Value) error) error {
	for {
		var row []bigquery.Value
		err := it.Next(&row)
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return wrap(err, "reading from BigQuery")
		}
		if err := f(row); err != nil {
			return err
		}
	}
}

// quote writes a name that has been checked.
func quote(name string) string { return "`" + name + "`" }

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
	if w.closed.Load() {
		return nil, fault.New(fault.Unavailable, "the warehouse is closed")
	}
	if err := warehouse.CheckTable(table); err != nil {
		return nil, err
	}
	meta, err := w.table(table).Metadata(ctx)
	if fault.Is(wrap(err, ""), fault.NotFound) && err != nil {
		return nil, fault.New(fault.NotFound, "there is no table %s", table)
	}
	if err != nil {
		return nil, wrap(err, "looking at table %s", table)
	}
	out := make([]string, len(meta.Schema))
	for i, f := range meta.Schema {
		out[i] = f.Name
	}
	return out, nil
}

// table finds [project.]dataset.table.
func (w *Warehouse) table(name string) *bigquery.Table {
	parts := strings.Split(name, ".")
	if len(parts) == 3 {
		return w.client.DatasetInProject(parts[0], parts[1]).Table(parts[2])
	}
	return w.client.Dataset(parts[0]).Table(parts[1])
}

// Calendar implements warehouse.Warehouse.
func (w *Warehouse) Calendar(ctx context.Context, t backfill.CalendarTable) ([]backfill.Partition, error) {
	columns, season := []string{t.Date}, "''"
	if t.Season != "" {
		columns = append(columns, t.Season)
		season = "COALESCE(MIN(CAST(" + quote(t.Season) + " AS STRING)), '')"
	}
	if err := w.check(ctx, t.Table, columns...); err != nil {
		return nil, err
	}
	day := "CAST(" + quote(t.Date) + " AS STRING)"
	q, err := w.query(ctx, "calendar", fmt.Sprintf(
		"SELECT %s AS day, %s AS season FROM %s WHERE %s IS NOT NULL GROUP BY day ORDER BY day", day, season, quote(t.Table), quote(t.Date)))
	if err != nil {
		return nil, err
	}
	var out []backfill.Partition
	err = w.rows(ctx, q, func(row []bigquery.Value) error {
		d, err := backfill.ParseDate(text(row[0]))
		if err != nil {
			return fault.New(fault.Invalid, "reading the calendar %s: %w", t.Table, err)
		}
		out = append(out, backfill.Partition{Date: d, Season: text(row[1])})
		return nil
	})
	return out, err
}

// text is a value as a string; NULL is empty.
func text(v bigquery.Value) string {
	switch s := v.(type) {
	case string:
		return s
	case civil.Date:
		return s.String()
	case nil:
		return ""
	default:
		return fmt.Sprint(v)
	}
}

// wrap gives an error of BigQuery the kind that callers act on.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	if fault.KindOf(err) != fault.Unknown {
		return fmt.Errorf(format+": %w", append(args, err)...)
	}
	kind := fault.Unavailable
	var api *googleapi.Error
	if errors.As(err, &api) {
		switch api.Code {
		case http.StatusNotFound:
			kind = fault.NotFound
		case http.StatusBadRequest:
			kind = fault.Invalid
		case http.StatusUnauthorized, http.StatusForbidden:
			kind = fault.Refused
		}
	}
	return fault.New(kind, format+": %w", append(args, err)...)
}
