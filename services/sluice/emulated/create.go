// Package emulated is the placement on emulators: it makes there what the infrastructure makes in the cloud, and
// runs the services as the processes that they are. make up and the scenarios are put together from it.
package emulated

import (
	"context"
	"fmt"
	"os"
	"strings"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/option"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse/bqwarehouse"
	"sluice.dev/services/completion-tracker/tracker"
	"sluice.dev/services/dispatcher/dispatch"
	"sluice.dev/services/phase-gate/gate"
)

// Subscriptions are those of the services, for the pipelines they run.
func Subscriptions(pipelines map[string]*backfill.Pipeline) []bus.Subscription {
	subs := []bus.Subscription{
		{Consumer: tracker.Name, Topic: event.TopicCompletions}, {Consumer: gate.Name, Topic: event.TopicPhaseCompletions},
	}
	for _, topic := range dispatch.Topics() {
		subs = append(subs, bus.Subscription{Consumer: dispatch.Name, Topic: topic})
	}
	for topic := range tracker.Adapters(pipelines) {
		subs = append(subs, bus.Subscription{Consumer: tracker.Name, Topic: topic})
	}
	return subs
}

// Require lists the emulators that are not there.
func Require() error {
	var faults fault.List
	for _, v := range []string{"PUBSUB_EMULATOR_HOST", "FIRESTORE_EMULATOR_HOST", "BIGQUERY_EMULATOR_HOST", "SLUICE_PROJECT_ID"} {
		if os.Getenv(v) == "" {
			faults.Addf("%s is not set: run this with make up, which starts the emulators", v)
		}
	}
	return faults.Err()
}

// CreateTables makes the journal and the tables that a pipeline reads, and fills its calendar. What is there
// stays as it is.
func CreateTables(ctx context.Context, project, journal string, p *backfill.Pipeline, dates backfill.Calendar) error {
	client, err := bigquery.NewClient(ctx, project, option.WithEndpoint(os.Getenv("BIGQUERY_EMULATOR_HOST")), option.WithoutAuthentication())
	if err != nil {
		return fmt.Errorf("connecting to BigQuery: %w", err)
	}
	defer client.Close() //nolint:errcheck // nothing is waiting
	schema, err := bqwarehouse.JournalSchema()
	if err != nil {
		return err
	}
	if _, err := create(ctx, client, journal, schema); err != nil {
		return err
	}
	if h := p.History; h != nil {
		columns := bigquery.Schema{{Name: h.Date, Type: bigquery.DateFieldType}}
		for name, typ := range map[string]bigquery.FieldType{
			h.Processor: bigquery.StringFieldType, h.Phase: bigquery.StringFieldType, h.Status: bigquery.StringFieldType, h.RunID: bigquery.StringFieldType,
			h.Started: bigquery.TimestampFieldType, h.Finished: bigquery.TimestampFieldType, h.Records: bigquery.IntegerFieldType, h.Duration: "FLOAT64",
		} {
			if name != "" {
				columns = append(columns, &bigquery.FieldSchema{Name: name, Type: typ})
			}
		}
		if _, err := create(ctx, client, h.Table, columns); err != nil {
			return err
		}
	}
	for name, columns := range written(p) {
		if _, err := create(ctx, client, name, columns); err != nil {
			return err
		}
	}
	c := p.Partition.Table
	if c == nil {
		return nil
	}
	columns := bigquery.Schema{{Name: c.Date, Type: bigquery.DateFieldType}, {Name: c.Season, Type: bigquery.StringFieldType}}
	made, err := create(ctx, client, c.Table, columns)
	if err != nil || !made {
		return err
	}
	var rows []*bigquery.ValuesSaver
	for _, d := range dates.All() {
		rows = append(rows, &bigquery.ValuesSaver{Schema: columns, InsertID: bigquery.NoDedupeID, Row: []bigquery.Value{d.Date.String(), d.Season}})
	}
	for len(rows) > 0 {
		n := min(len(rows), 500)
		if err := table(client, c.Table).Inserter().Put(ctx, rows[:n]); err != nil {
			return fmt.Errorf("filling %s: %w", c.Table, err)
		}
		rows = rows[n:]
	}
	return nil
}

// written are the tables that the pipeline's phases write, with the columns that its checks name.
func written(p *backfill.Pipeline) map[string]bigquery.Schema {
	out := map[string]bigquery.Schema{}
	add := func(table, column string, typ bigquery.FieldType) {
		if table == "" {
			return
		}
		if out[table] == nil {
			out[table] = bigquery.Schema{{Name: p.Partition.Column, Type: bigquery.DateFieldType}, {Name: "game_id", Type: bigquery.StringFieldType}}
		}
		for _, f := range out[table] {
			if f.Name == column {
				return
			}
		}
		if column != "" {
			out[table] = append(out[table], &bigquery.FieldSchema{Name: column, Type: typ})
		}
	}
	for i := range p.Phases {
		for _, t := range p.Phases[i].Outputs {
			add(t, "", "")
		}
	}
	for _, c := range p.Checks {
		for _, name := range append([]string{c.Over, c.To, c.Column}, c.Columns...) {
			if i := strings.LastIndex(name, "."); i > 0 {
				typ := bigquery.StringFieldType
				if strings.HasSuffix(name, ".points") {
					typ = bigquery.IntegerFieldType
				}
				add(name[:i], name[i+1:], typ)
			}
		}
	}
	return out
}

func table(client *bigquery.Client, name string) *bigquery.Table {
	dataset, table, _ := strings.Cut(name, ".")
	return client.Dataset(dataset).Table(table)
}

// create makes a table with its dataset and says whether it was not there.
func create(ctx context.Context, client *bigquery.Client, name string, schema bigquery.Schema) (bool, error) {
	dataset, _, _ := strings.Cut(name, ".")
	if _, err := client.Dataset(dataset).Metadata(ctx); err != nil {
		if err := client.Dataset(dataset).Create(ctx, nil); err != nil {
			return false, fmt.Errorf("creating dataset %s: %w", dataset, err)
		}
	}
	if _, err := table(client, name).Metadata(ctx); err == nil {
		return false, nil
	}
	if err := table(client, name).Create(ctx, &bigquery.TableMetadata{Schema: schema}); err != nil {
		return false, fmt.Errorf("creating table %s: %w", name, err)
	}
	return true, nil
}
