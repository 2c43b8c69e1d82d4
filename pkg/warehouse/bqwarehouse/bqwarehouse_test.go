package bqwarehouse_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/option"

	"sluice.dev/pkg/warehouse"
	"sluice.dev/pkg/warehouse/bqwarehouse"
	"sluice.dev/pkg/warehouse/warehousetest"
)

var datasets atomic.Int32

func TestWarehouse(t *testing.T) {
	t.Parallel()
	host := os.Getenv("BIGQUERY_EMULATOR_HOST")
	if host == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no BigQuery emulator: run the tests with make test")
		}
		t.Skip("no BigQuery emulator: run make test, which builds one")
	}
	warehousetest.Run(t, func(t *testing.T) (warehouse.Warehouse, warehousetest.Tables) {
		t.Helper()
		options := []option.ClientOption{option.WithEndpoint(host), option.WithoutAuthentication()}
		project := os.Getenv("SLUICE_PROJECT_ID")
		client, err := bigquery.NewClient(context.Background(), project, options...)
		if err != nil {
			t.Fatal(err)
		}
		f := tables{client, fmt.Sprintf("ref_%d_%d", os.Getpid(), datasets.Add(1))}
		if err := client.Dataset(f.dataset).Create(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		schema, err := bqwarehouse.JournalSchema()
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Dataset(f.dataset).Table("journal").Create(t.Context(), &bigquery.TableMetadata{Schema: schema}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = client.Dataset(f.dataset).DeleteWithContents(context.Background())
			_ = client.Close()
		})
		w, err := bqwarehouse.Open(t.Context(), bqwarehouse.Options{
			Project: project, Journal: f.dataset + ".journal", JobsView: "`" + f.dataset + ".jobs`", Emulator: true,
		}, options...)
		if err != nil {
			t.Fatal(err)
		}
		return w, f
	})
}

// tables makes the suite's tables in the dataset of one subtest.
type tables struct {
	client  *bigquery.Client
	dataset string
}

func (f tables) Name(table string) string { return strings.Replace(table, "ref.", f.dataset+".", 1) }

func (f tables) Create(t *testing.T, table, date string, columns []string, rows [][]any) {
	t.Helper()
	var schema bigquery.Schema
	for _, c := range columns {
		typ := bigquery.StringFieldType
		switch {
		case c == date:
			typ = bigquery.DateFieldType
		case strings.HasSuffix(c, "_at"):
			typ = bigquery.TimestampFieldType
		case strings.HasSuffix(c, "_n"):
			typ = bigquery.IntegerFieldType
		}
		schema = append(schema, &bigquery.FieldSchema{Name: c, Type: typ})
	}
	tab := f.client.Dataset(f.dataset).Table(strings.TrimPrefix(table, "ref."))
	if err := tab.Create(t.Context(), &bigquery.TableMetadata{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	var savers []*bigquery.ValuesSaver
	for _, r := range rows {
		values := make([]bigquery.Value, len(r))
		for i := range r {
			values[i] = r[i]
		}
		savers = append(savers, &bigquery.ValuesSaver{Schema: schema, InsertID: bigquery.NoDedupeID, Row: values})
	}
	for len(savers) > 0 {
		n := min(len(savers), 500)
		if err := tab.Inserter().Put(t.Context(), savers[:n]); err != nil {
			t.Fatal(err)
		}
		savers = savers[n:]
	}
}

// jobColumns are the columns of INFORMATION_SCHEMA.JOBS that the queries use, with their documented types.
func jobColumns(t *testing.T) bigquery.Schema {
	t.Helper()
	var s bigquery.Schema
	for name, typ := range documented(t) {
		switch {
		case !usedInJobs(name):
		case typ == "RECORD":
			s = append(s, &bigquery.FieldSchema{Name: name, Type: bigquery.RecordFieldType, Repeated: true, Schema: bigquery.Schema{
				{Name: "key", Type: bigquery.StringFieldType}, {Name: "value", Type: bigquery.StringFieldType},
			}})
		default:
			s = append(s, &bigquery.FieldSchema{Name: name, Type: bigquery.FieldType(typ)})
		}
	}
	return s
}

// Jobs makes a table like the view, which the emulator does not have.
func (f tables) Jobs(t *testing.T, list ...warehousetest.Job) {
	t.Helper()
	tab := f.client.Dataset(f.dataset).Table("jobs")
	if _, err := tab.Metadata(t.Context()); err != nil {
		if err := tab.Create(t.Context(), &bigquery.TableMetadata{Schema: jobColumns(t)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, j := range list {
		at := func(v time.Time) string {
			if v.IsZero() {
				return "NULL"
			}
			return "TIMESTAMP_MILLIS(" + fmt.Sprint(v.UnixMilli()) + ")"
		}
		state, labels := "RUNNING", "[STRUCT('sluice_backfill' AS key, '"+j.Backfill+"' AS value)]"
		if j.Started.IsZero() {
			state = "PENDING"
		}
		if j.Backfill == "" {
			labels = "[STRUCT('team' AS key, 'data' AS value)]"
		}
		sql := fmt.Sprintf("INSERT INTO `%s.jobs` (job_id, job_type, statement_type, state, user_email, creation_time, start_time, total_bytes_billed, labels) "+
			"VALUES ('%s', 'QUERY', 'SELECT', '%s', '%s', %s, %s, %d, %s)", f.dataset, j.ID, state, j.Account, at(j.Created), at(j.Started), j.Billed, labels)
		if _, err := f.client.Query(sql).Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
