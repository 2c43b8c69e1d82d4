package sqlitewarehouse

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/sqlitedb"
	"sluice.dev/pkg/warehouse"
)

// jobs is the embedded counterpart of INFORMATION_SCHEMA.JOBS. Nothing in SQLite writes it: the example platform
// does, and where it is not there, there are no statistics.
const jobs = "information_schema.jobs"

// Job is a query as the statistics have it. A zero Started says that it waits.
type Job struct {
	ID       string
	Account  string
	Backfill string // its label
	Created  time.Time
	Started  time.Time
	Billed   int64
}

// AddJobs records jobs; one that is there already is replaced.
func (w *Warehouse) AddJobs(ctx context.Context, list ...Job) error {
	return w.db.Write(ctx, func(tx *sqlitedb.Tx) error {
		_, err := tx.Exec("CREATE TABLE IF NOT EXISTS " + quote(jobs) +
			"(job_id TEXT PRIMARY KEY, user_email TEXT, backfill TEXT, creation_time INTEGER, start_time INTEGER, total_bytes_billed INTEGER)")
		for i := 0; err == nil && i < len(list); i++ {
			j := list[i]
			var started any
			if !j.Started.IsZero() {
				started = j.Started.UnixNano()
			}
			_, err = tx.Exec("INSERT OR REPLACE INTO "+quote(jobs)+" VALUES(?,?,?,?,?,?)", j.ID, j.Account, j.Backfill, j.Created.UnixNano(), started, j.Billed)
		}
		if err != nil {
			return fmt.Errorf("writing job statistics: %w", err)
		}
		return nil
	})
}

func (w *Warehouse) statistics(ctx context.Context) error {
	_, err := w.Columns(ctx, jobs)
	if fault.Is(err, fault.NotFound) {
		return fault.New(fault.Unsupported, "the local warehouse has no job statistics")
	}
	return err
}

// Billed implements warehouse.Warehouse.
func (w *Warehouse) Billed(ctx context.Context, backfill string, accounts []string, since, until time.Time) (int64, error) {
	if err := w.statistics(ctx); err != nil {
		return 0, err
	}
	list, err := json.Marshal(append([]string{}, accounts...))
	if err != nil {
		return 0, fmt.Errorf("adding up job statistics: %w", err)
	}
	if until.IsZero() {
		until = time.Unix(1<<33, 0)
	}
	var n sql.NullInt64
	err = w.db.QueryRowContext(ctx, "SELECT sum(total_bytes_billed) FROM "+quote(jobs)+" WHERE creation_time >= ? AND creation_time < ?"+
		" AND (backfill = ? OR (coalesce(backfill, '') = '' AND user_email IN (SELECT value FROM json_each(?))))",
		since.UnixNano(), until.UnixNano(), backfill, string(list)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("adding up job statistics: %w", err)
	}
	return n.Int64, nil
}

// Queue implements warehouse.Warehouse.
func (w *Warehouse) Queue(ctx context.Context, since time.Time) (warehouse.Queue, error) {
	if err := w.statistics(ctx); err != nil {
		return warehouse.Queue{}, err
	}
	var pending int
	var wait sql.NullFloat64
	now := time.Now().UnixNano()
	err := w.db.QueryRowContext(ctx, "SELECT count(*) FILTER (WHERE start_time IS NULL), avg(coalesce(start_time, ?) - creation_time) FROM "+quote(jobs)+
		" WHERE creation_time >= ?", now, since.UnixNano()).Scan(&pending, &wait)
	if err != nil {
		return warehouse.Queue{}, fmt.Errorf("reading job statistics: %w", err)
	}
	return warehouse.Queue{Pending: pending, Wait: time.Duration(max(0, wait.Float64))}, nil
}
