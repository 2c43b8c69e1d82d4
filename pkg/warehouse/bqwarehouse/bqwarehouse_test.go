package bqwarehouse_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

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
		w, err := bqwarehouse.Open(t.Context(), bqwarehouse.Options{Project: project, Journal: f.dataset + ".journal"}, options...)
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
		if c == date {
			typ = bigquery.DateFieldType
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
