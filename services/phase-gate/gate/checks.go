package gate

import (
	"context"
	"sync"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/telemetry"
	"sluice.dev/pkg/verify"
	"sluice.dev/pkg/warehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Checks is what blocking checks are run with.
type Checks struct {
	Source warehouse.Selecter
	// MissingOK has checks of tables that are not there skipped.
	MissingOK bool
	// Gather is how long the first date waits for others to share its queries.
	Gather time.Duration
}

// checker runs the blocking checks of a phase for many dates at once: dates that come while others wait, or while a
// query runs, share the next one.
type checker struct {
	Checks
	mu      sync.Mutex
	batches map[batchKey]*batch
	running map[batchKey]*sync.Mutex // one query of a phase at a time, so that the next gathers meanwhile
}

type batchKey struct{ key, phase string }

// batch is dates that share queries. done is closed once failed and err are there.
type batch struct {
	dates  []backfill.Partition
	done   chan struct{}
	failed map[string]map[backfill.Date]string // by check
	err    error
}

// checkTimeout bounds the queries of a batch.
const checkTimeout = 5 * time.Minute

// run runs the checks of a phase for a date and says which fail, and why.
func (c *checker) run(ctx context.Context, scope *backfill.Scope, phase string, part backfill.Partition) (map[string]string, error) {
	k := batchKey{scope.Key, phase}
	c.mu.Lock()
	b := c.batches[k]
	if b == nil {
		b = &batch{done: make(chan struct{}), failed: map[string]map[backfill.Date]string{}}
		c.batches[k] = b
		go c.ask(context.WithoutCancel(ctx), k, b, scope, phase)
	}
	b.dates = append(b.dates, part)
	c.mu.Unlock()
	select {
	case <-b.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out := map[string]string{}
	for name, dates := range b.failed {
		if why, bad := dates[part.Date]; bad {
			out[name] = why
		}
	}
	return out, b.err
}

// ask runs the queries of a batch.
func (c *checker) ask(ctx context.Context, k batchKey, b *batch, scope *backfill.Scope, phase string) {
	defer close(b.done)
	c.mu.Lock()
	turn := c.running[k]
	if turn == nil {
		turn = &sync.Mutex{}
		c.running[k] = turn
	}
	c.mu.Unlock()
	turn.Lock()
	defer turn.Unlock()
	time.Sleep(c.Gather)
	c.mu.Lock()
	delete(c.batches, k)
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(warehouse.ForBackfill(ctx, scope.ID), checkTimeout)
	defer cancel()
	var checks []backfill.Check
	for _, check := range scope.Blocking(phase, b.dates[0].Season) {
		checks = append(checks, *check)
	}
	outcomes, err := verify.Settings{Source: c.Source, Pipeline: scope.Pipeline, MissingOK: c.MissingOK}.Run(ctx, checks, b.dates)
	b.err = err
	for _, o := range outcomes {
		b.failed[o.Check.Name] = map[backfill.Date]string{}
		for _, f := range o.Failures {
			why := f.Detail
			if o.Detail != "" && why == "cannot be run" {
				why = o.Detail
			}
			b.failed[o.Check.Name][f.Date] = why
		}
	}
}

// check runs the blocking checks after a phase of a date that have no result yet, and puts the results on record.
func (l *look) check(ctx context.Context, rec *backfill.Record, phase string) error {
	failed, err := l.g.checks.run(ctx, l.scope, phase, backfill.Partition{Date: rec.Date, Season: rec.Season})
	if err != nil {
		return err
	}
	now := l.g.now()
	var facts []backfill.Fact
	var events []*event.Event
	for _, c := range l.scope.Blocking(phase, rec.Season) {
		run := rec.Check(c)
		if run.State != backfill.CheckPending {
			continue
		}
		ref := c.Ref()
		why, bad := failed[c.Name]
		kind := backfill.CheckPassed
		if bad {
			kind = backfill.CheckFailed
			l.g.metrics.Count(ctx, telemetry.CheckFailures, 1, "pipeline", l.scope.Pipeline.Name, "check", c.Name)
			l.g.log.WarnContext(ctx, "check failed", "backfill_id", l.scope.ID, "date", rec.Date.String(), "phase", phase, "check", c.Name, "detail", why)
		}
		facts = append(facts, backfill.Fact{
			Key:   backfill.Key{Phase: ref.Phase, Processor: ref.Processor, Attempt: run.Attempt, Kind: kind},
			Value: backfill.Value{At: now, Message: why},
		})
		events = append(events, event.Journal(Name, now, &pb.BackfillEvent{
			BackfillId: l.scope.ID, Pipeline: l.scope.Pipeline.Name, Kind: string(kind), Date: rec.Date.String(), Phase: phase,
			Processor: ref.Processor, Attempt: int32(run.Attempt), Message: why,
		}))
	}
	if len(facts) == 0 {
		return nil
	}
	wake := time.Time{}
	if len(failed) > 0 {
		wake = now // the dispatcher looks at the date again
	}
	merged, err := l.g.store.Merge(ctx, l.scope.ID, rec.Date, wake, facts...)
	if err != nil {
		return err
	}
	*rec = merged
	return l.g.pub.Publish(ctx, event.TopicEvents, events...)
}
