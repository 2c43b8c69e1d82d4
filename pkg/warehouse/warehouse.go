// Package warehouse is what Sluice reads from and writes to tables: the calendar, the platform's own run
// history, and the journal. The comments here are the specification that package warehousetest holds every
// driver to.
package warehouse

import (
	"context"

	"sluice.dev/pkg/backfill"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Warehouse is a set of tables. Table and column names come from the pipeline file and are checked as
// identifiers before they reach a query; values are always parameters. A table or column that does not
// exist is NotFound and named. All methods may be called concurrently.
type Warehouse interface {
	// Calendar returns every date of the table with its season, however many rows there are, in date
	// order and each date once. Rows without a date are ignored.
	Calendar(ctx context.Context, t backfill.CalendarTable) ([]backfill.Partition, error)
	// Done calls f for every run with from <= date <= to that the history records as succeeded, with one
	// query, in no particular order and possibly more than once.
	Done(ctx context.Context, h backfill.HistorySource, from, to backfill.Date, f func(Run)) error
	// Columns lists the columns of a table, in no particular order.
	Columns(ctx context.Context, table string) ([]string, error)
	// Durations says how long the succeeded runs with from <= date <= to took, for each processor that has some,
	// in order of phase and processor. Runs without a duration above zero are ignored. Without a duration column it
	// is empty.
	Durations(ctx context.Context, h backfill.HistorySource, from, to backfill.Date) ([]Duration, error)
	// Append adds events to the journal; one that is there already, by its time and id, changes nothing.
	Append(ctx context.Context, events ...*pb.BackfillEvent) error
	// Events calls f for the journal of a backfill in the order in which things happened. An error of f
	// ends it and is returned.
	Events(ctx context.Context, id string, f func(*pb.BackfillEvent) error) error
	// Close makes all methods fail. It may be called twice.
	Close() error
}

// Duration is how long a processor's runs took: percentiles by the nearest rank, in seconds.
type Duration struct {
	Phase     string
	Processor string
	Runs      int
	P50, P90  float64
}

// Run is one processor's run for a date.
type Run struct {
	Date      backfill.Date
	Phase     string
	Processor string
}
