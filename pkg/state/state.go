// Package state is what Sluice remembers: backfills, the facts of their dates, who owns which partition,
// and the pipelines that backfills were started with. The comments here are the specification that every
// driver is held to by package statetest.
package state

import (
	"context"
	"time"

	"sluice.dev/pkg/backfill"
)

// Store is all of it. Errors carry kinds of package fault: NotFound, Conflict, Fenced, Unavailable. All
// methods may be called concurrently. What a method returns belongs to the caller, except that records
// are immutable and may be shared.
type Store interface {
	Backfills
	Dates
	Partitions
	Pipelines
	// Watch calls f, one call at a time, with every backfill or record that changed after Watch began,
	// until ctx ends, and returns nil then. A slow f misses versions in between, never the last one.
	Watch(ctx context.Context, id string, f func(Change)) error
	// Close makes all methods fail. It may be called twice.
	Close() error
}

// Change is a new version: exactly one of the two is set.
type Change struct {
	Backfill *backfill.Backfill
	Record   *backfill.Record
}

// Backfills keeps one document per backfill.
type Backfills interface {
	// CreateBackfill stores a new backfill. When its id is taken, it returns the one that is there and
	// false, unless that one was refused, which is replaced.
	CreateBackfill(ctx context.Context, b *backfill.Backfill) (*backfill.Backfill, bool, error)
	// Backfill returns NotFound for an id that is not there.
	Backfill(ctx context.Context, id string) (*backfill.Backfill, error)
	// ListBackfills lists all, the newest first.
	ListBackfills(ctx context.Context) ([]*backfill.Backfill, error)
	// UpdateBackfill changes a backfill in a transaction and returns the new version; an error of change
	// aborts it. A non-zero epoch that is not the lease's is Fenced. change may run more than once. The
	// lease itself is not changed.
	UpdateBackfill(ctx context.Context, id string, epoch int64, change func(*backfill.Backfill) error) (*backfill.Backfill, error)
	// Acquire takes or renews the lease of a backfill. It is Conflict while another holder's has not
	// expired. A new holder gets a higher epoch, the same holder keeps its own.
	Acquire(ctx context.Context, id, holder string, now time.Time, ttl time.Duration) (backfill.Lease, error)
	// Release gives the lease up, so that another can take it at once; not holding it is no error.
	Release(ctx context.Context, id, holder string) error
	// Expire says when the documents of a backfill, those of its dates too, may be removed; zero for never. Removing
	// them is not its business: some stores do it by themselves, and Purge does.
	Expire(ctx context.Context, id string, at time.Time) error
	// Forget removes a backfill with its dates; one that is not there is no error. Afterwards CreateBackfill is
	// Unavailable for that id for as long as Grave, because others still remember the one that was.
	Forget(ctx context.Context, id string) error
}

// Grave is how long an id that was forgotten cannot be used. Nobody remembers a scope for longer (see Scopes).
const Grave = 12 * time.Second

// Dates keeps one record per date of a backfill.
type Dates interface {
	// CreateDates stores records; facts of records that are there already are merged in.
	CreateDates(ctx context.Context, id string, records []backfill.Record) error
	// Date returns NotFound for a date that the backfill does not have.
	Date(ctx context.Context, id string, date backfill.Date) (backfill.Record, error)
	// ScanDates calls f for every record with from <= date <= to in date order, however many there are; an
	// error of f ends the scan and is returned.
	ScanDates(ctx context.Context, id string, from, to backfill.Date, f func(backfill.Record) error) error
	// Merge adds facts and lowers the wake-up time, and returns the record as it is after that: it holds at
	// least everything merged before this call returned, by anybody. Facts that are there already change
	// nothing. Merges of one record never wait for each other's locks. NotFound as in Date.
	Merge(ctx context.Context, id string, date backfill.Date, wake time.Time, facts ...backfill.Fact) (backfill.Record, error)
	// Due lists up to limit dates whose wake-up time has come, the most overdue first.
	Due(ctx context.Context, id string, now time.Time, limit int) ([]backfill.Date, error)
	// Rearm sets the wake-up time of a record, zero for never, unless the record has changed since it was
	// read: then it does nothing and returns false.
	Rearm(ctx context.Context, id string, seen backfill.Record, at time.Time) (bool, error)
}

// Partitions says which active backfill owns a date of a pipeline.
type Partitions interface {
	// Claim gives all the dates to a backfill, or none: a date that another owns makes it a Conflict that
	// names the other. Dates it owns already are fine.
	Claim(ctx context.Context, pipeline, id string, dates []backfill.Date) error
	// Unclaim frees every date of the pipeline that the backfill owns.
	Unclaim(ctx context.Context, pipeline, id string) error
	// Owner is the backfill that owns a date, or NotFound.
	Owner(ctx context.Context, pipeline string, date backfill.Date) (string, error)
}

// Pipelines keeps every version of a pipeline that a backfill was started with.
type Pipelines interface {
	// PutPipeline stores a version; storing it again changes nothing.
	PutPipeline(ctx context.Context, version string, p *backfill.Pipeline) error
	// Pipeline returns NotFound for a version that was never stored.
	Pipeline(ctx context.Context, name, version string) (*backfill.Pipeline, error)
}
