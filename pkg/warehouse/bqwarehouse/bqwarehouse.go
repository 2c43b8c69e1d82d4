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
	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
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

// Done implements warehouse.Warehouse.
func (w *Warehouse) Done(ctx context.Context, h backfill.HistorySource, from, to backfill.Date, f func(warehouse.Run)) error {
	if err := w.check(ctx, h.Table, h.Processor, h.Date, h.Phase, h.Status); err != nil {
		return err
	}
	q, err := w.query(ctx, "history", fmt.Sprintf(
		"SELECT DISTINCT CAST(%[1]s AS STRING), %[2]s, %[3]s FROM %[4]s WHERE %[1]s BETWEEN @from AND @to AND %[5]s IN UNNEST(@succeeded)",
		quote(h.Date), quote(h.Phase), quote(h.Processor), quote(h.Table), quote(h.Status)),
		bigquery.QueryParameter{Name: "from", Value: civil.DateOf(from.Time())}, bigquery.QueryParameter{Name: "to", Value: civil.DateOf(to.Time())},
		bigquery.QueryParameter{Name: "succeeded", Value: h.Succeeded})
	if err != nil {
		return err
	}
	return w.rows(ctx, q, func(row []bigquery.Value) error {
		d, err := backfill.ParseDate(text(row[0]))
		if err != nil {
			return fault.New(fault.Invalid, "reading the history %s: %w", h.Table, err)
		}
		f(warehouse.Run{Date: d, Phase: text(row[1]), Processor: text(row[2])})
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

// stamp is a time of the journal, in the microseconds that BigQuery keeps.
func stamp(t *timestamppb.Timestamp) time.Time { return t.AsTime().Truncate(time.Microsecond) }

// journalColumns are the fields of the journal's table, which are those of the message. Some are keywords.
const journalColumns = "`id`, `at`, `backfill_id`, `pipeline`, `kind`, `date`, `phase`, `processor`, `attempt`, `message`, `requested_by`, `records`, `bytes_billed`, `duration_seconds`, `faults`"

// Append implements warehouse.Warehouse. In the cloud a BigQuery subscription writes the journal; this is for
// placements without one.
func (w *Warehouse) Append(ctx context.Context, events ...*pb.BackfillEvent) error {
	for _, e := range events {
		faults := e.GetFaults()
		if faults == nil {
			faults = []string{}
		}
		param := func(name string, v any) bigquery.QueryParameter { return bigquery.QueryParameter{Name: name, Value: v} }
		q, err := w.query(warehouse.ForBackfill(ctx, e.GetBackfillId()), "journal", "INSERT INTO "+quote(w.opts.Journal)+" ("+journalColumns+")"+
			" SELECT @id, @at, @backfill_id, @pipeline, @kind, @date, @phase, @processor, @attempt, @message, @requested_by, @records, @bytes_billed,"+
			" @duration_seconds, @faults FROM (SELECT 1) WHERE NOT EXISTS (SELECT 1 FROM "+quote(w.opts.Journal)+" WHERE `id` = @id AND `at` = @at)",
			param("id", e.GetId()), param("at", stamp(e.GetAt())), param("backfill_id", e.GetBackfillId()), param("pipeline", e.GetPipeline()),
			param("kind", e.GetKind()), param("date", e.GetDate()), param("phase", e.GetPhase()), param("processor", e.GetProcessor()),
			param("attempt", int64(e.GetAttempt())), param("message", e.GetMessage()), param("requested_by", e.GetRequestedBy()),
			param("records", e.GetRecords()), param("bytes_billed", e.GetBytesBilled()), param("duration_seconds", e.GetDurationSeconds()),
			param("faults", faults))
		if err != nil {
			return err
		}
		if err := w.rows(ctx, q, func([]bigquery.Value) error { return nil }); err != nil {
			return wrap(err, "writing the journal")
		}
	}
	return ctx.Err()
}

// line is a row of the journal.
type line struct {
	ID              string    `bigquery:"id"`
	At              time.Time `bigquery:"at"`
	BackfillID      string    `bigquery:"backfill_id"`
	Pipeline        string    `bigquery:"pipeline"`
	Kind            string    `bigquery:"kind"`
	Date            string    `bigquery:"date"`
	Phase           string    `bigquery:"phase"`
	Processor       string    `bigquery:"processor"`
	Attempt         int64     `bigquery:"attempt"`
	Message         string    `bigquery:"message"`
	RequestedBy     string    `bigquery:"requested_by"`
	Records         int64     `bigquery:"records"`
	BytesBilled     int64     `bigquery:"bytes_billed"`
	DurationSeconds float64   `bigquery:"duration_seconds"`
	Faults          []string  `bigquery:"faults"`
}

// JournalSchema is the schema of the journal's table.
func JournalSchema() (bigquery.Schema, error) {
	s, err := bigquery.InferSchema(line{})
	if err != nil {
		return nil, fmt.Errorf("the journal's schema: %w", err)
	}
	for _, f := range s {
		f.Required = f.Name == "id" || f.Name == "at"
		if f.Type == bigquery.FloatFieldType {
			f.Type = "FLOAT64" // the same by its GoogleSQL name, which emulators understand too
		}
	}
	return s, nil
}

// Events implements warehouse.Warehouse. A line that was delivered twice is told once.
func (w *Warehouse) Events(ctx context.Context, id string, f func(*pb.BackfillEvent) error) error {
	q, err := w.query(warehouse.ForBackfill(ctx, id), "journal",
		"SELECT "+journalColumns+" FROM "+quote(w.opts.Journal)+" WHERE `backfill_id` = @id ORDER BY `at`, `id`", bigquery.QueryParameter{Name: "id", Value: id})
	if err != nil {
		return err
	}
	it, err := q.Read(ctx)
	if err != nil {
		return wrap(err, "reading the journal of %s", id)
	}
	last := ""
	for {
		var l line
		err := it.Next(&l)
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return wrap(err, "reading the journal of %s", id)
		}
		if l.ID == last {
			continue
		}
		last = l.ID
		err = f(&pb.BackfillEvent{
			Id: l.ID, At: timestamppb.New(l.At), BackfillId: l.BackfillID, Pipeline: l.Pipeline, Kind: l.Kind, Date: l.Date, Phase: l.Phase,
			Processor: l.Processor, Attempt: int32(l.Attempt), Message: l.Message, RequestedBy: l.RequestedBy, Records: l.Records,
			BytesBilled: l.BytesBilled, DurationSeconds: l.DurationSeconds, Faults: l.Faults,
		})
		if err != nil {
			return err
		}
	}
}
