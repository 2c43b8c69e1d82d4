// Package warehouse is what Sluice reads from and writes to tables: the calendar, the platform's own run
// history, and the journal. The comments here are the specification that package warehousetest holds every
// driver to.
package warehouse

import (
	"context"
	"time"

	"sluice.dev/pkg/backfill"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Warehouse is a set of tables. Table and column names come from the pipeline file and are checked as
// identifiers before they reach a query; values are always parameters. A table or column that does not
// exist is NotFound and named. All methods may be called concurrently.
type Warehouse interface {
	Calendars
	History
	Journal
	Selecter
	Partitions
	Jobs
	// Close makes all methods fail. It may be called twice.
	Close() error
}

// Calendars says which dates there are, and what tables look like.
type Calendars interface {
	// Calendar returns every date of the table with its season, however many rows there are, in date
	// order and each date once. Rows without a date are ignored.
	Calendar(ctx context.Context, t backfill.CalendarTable) ([]backfill.Partition, error)
	// Columns lists the columns of a table, in no particular order.
	Columns(ctx context.Context, table string) ([]string, error)
}

// History is what processors have recorded of their runs.
type History interface {
	// Done calls f for every run with from <= date <= to that the history records as succeeded, or as partial where it
	// has words for that, with one query, in no particular order and possibly more than once.
	Done(ctx context.Context, h backfill.HistorySource, from, to backfill.Date, f func(Run)) error
	// Recorded calls f for every run with from <= date <= to that ended at or after since, whatever its status, with
	// one query, in no particular order. It needs the column that says when runs ended.
	Recorded(ctx context.Context, h backfill.HistorySource, from, to backfill.Date, since time.Time, f func(Recorded)) error
	// Record adds runs, those that are there already by their id and date left out. Fields without a column are
	// left out.
	Record(ctx context.Context, h backfill.HistorySource, runs []Recorded) error
	// Durations says how long the succeeded runs with from <= date <= to took, for each processor that has some,
	// in order of phase and processor. Runs without a duration above zero are ignored. Without a duration column it
	// is empty.
	Durations(ctx context.Context, h backfill.HistorySource, from, to backfill.Date) ([]Duration, error)
}

// Journal keeps backfill-events.
type Journal interface {
	// Append adds events to the journal; one that is there already, by its time and id, changes nothing.
	Append(ctx context.Context, events ...*pb.BackfillEvent) error
	// Events calls f for the journal of a backfill in the order in which things happened. An error of f
	// ends it and is returned.
	Events(ctx context.Context, id string, f func(*pb.BackfillEvent) error) error
}

// Selecter answers questions about the data of some dates.
type Selecter interface {
	// Dialect is how its SQL is written.
	Dialect() Dialect
	// Select runs a query, labelled with the purpose, in which @dates is the dates, an array for UNNEST, and calls f for
	// every row, however many there are. Values are string, int64, float64 or nil; other types are text. A query that
	// cannot be run is Invalid, one that names what is not there NotFound. An error of f ends it and is returned.
	Select(ctx context.Context, purpose, query string, dates []backfill.Date, f func(columns []string, row []any) error) error
}

// Dialect is how a warehouse writes what differs from one to the other. Names have been checked.
type Dialect struct {
	// Quote writes the name of a table or a column.
	Quote func(name string) string
	// Day is the value of a date column as text, YYYY-MM-DD.
	Day func(column string) string
	// In says that a date column holds one of Select's dates, so that only their partitions are read.
	In func(column string) string
	// Number is a column as a floating-point number.
	Number func(column string) string
}

// Partitions removes and puts back what was written for some dates.
type Partitions interface {
	// Size counts the rows of a slice, and about how many bytes they take.
	Size(ctx context.Context, s backfill.Slice) (rows, bytes int64, err error)
	// Snapshot keeps the whole table as it is now, under another name, until it expires. One of that name that is there
	// already stays as it is.
	Snapshot(ctx context.Context, table, snapshot string, expires time.Time) error
	// Delete removes the rows of a slice and says how many there were.
	Delete(ctx context.Context, s backfill.Slice) (int64, error)
	// Restore replaces the rows of a slice by those of a snapshot, or changes nothing. Without the snapshot it is
	// NotFound.
	Restore(ctx context.Context, s backfill.Slice, snapshot string) (int64, error)
}

// Jobs tells of the queries that are run in the project. Where there are no such statistics, both are Unsupported.
type Jobs interface {
	// Billed sums the bytes that were billed for jobs made at or after since, and before until when that is not zero:
	// those that are labelled with the backfill, and those of the accounts that are labelled with no backfill.
	Billed(ctx context.Context, backfill string, accounts []string, since, until time.Time) (int64, error)
	// Queue says how many jobs wait, and how long those that were made at or after since have waited on average.
	Queue(ctx context.Context, since time.Time) (Queue, error)
}

// Queue is how much the warehouse is behind.
type Queue struct {
	Pending int
	Wait    time.Duration
}

// Recorded is a run as the history has it. Status is the platform's own word.
type Recorded struct {
	Run
	ID       string
	Status   string
	Started  time.Time
	Finished time.Time
	Records  int64
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
	Partial   bool // it has succeeded in part
}
