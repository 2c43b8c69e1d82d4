// Package dispatch drives backfills: it takes requests and controls, calls processors within the limits,
// keeps the timers, and says when a backfill is over. It alone writes the backfill document and the
// dispatched facts. One instance drives a backfill at a time, by its lease.
package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/preflight"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/telemetry"
)

// Name is the consumer's name in subscriptions and the source of its events.
const Name = "dispatcher"

// Options is what a dispatcher needs.
type Options struct {
	Store  state.Store
	Bus    bus.Publisher
	Before *preflight.Preflight // its planner plans, and its warehouse is asked for history and job statistics
	Caller *Caller
	Log    *slog.Logger
	Now    func() time.Time
	// Telemetry is nil where nobody wants it.
	Telemetry *telemetry.Telemetry
	// Holder names this instance in leases. Two instances that run at once must differ.
	Holder   string
	LeaseTTL time.Duration
	// Tick is how often timers and progress are looked after.
	Tick time.Duration
	// Backlog is how many answers may wait to be recorded before nothing more is admitted; 0 means 256.
	Backlog int
	// Gather is how long a backfill's first triggers, which come in no order, are gathered before the oldest go.
	Gather time.Duration
	// Keep is how long the documents of an ended backfill are kept; 0 for ever.
	Keep time.Duration
	// Watch is how often the warehouse is asked what was spent, whether jobs queue up, and how adopted runs ended;
	// 0 means every minute.
	Watch time.Duration
	// Grace is how long calls in flight may go on after Run's context ended.
	Grace time.Duration
}

// Dispatcher drives backfills.
type Dispatcher struct {
	Options
	wake    chan struct{} // holds a token while admission may have something to do
	calls   sync.WaitGroup
	recent  *state.Recent
	journal journal

	mu      sync.Mutex
	sched   *backfill.Scheduler
	driven  map[string]*drive
	begins  map[string]bool // backfills that are being taken over
	unowned int             // running backfills that nobody drove when they were last looked at
	closed  bool
}

// New makes a dispatcher; Run makes it work.
func New(o Options) *Dispatcher {
	if o.Backlog == 0 {
		o.Backlog = 256
	}
	if o.Telemetry == nil {
		o.Telemetry = telemetry.Off()
	}
	if o.Watch == 0 {
		o.Watch = time.Minute
	}
	return &Dispatcher{
		Options: o, wake: make(chan struct{}, 1), sched: backfill.NewScheduler(o.Backlog, o.Gather), driven: map[string]*drive{}, begins: map[string]bool{},
		recent: state.NewRecent(), journal: journal{bus: o.Bus, log: o.Log, more: make(chan struct{}, 1)},
	}
}

// Topics lists what the dispatcher subscribes to.
func Topics() []string {
	return []string{event.TopicRequests, event.TopicControls, event.TopicTriggers, event.TopicPhaseCompletions}
}

// Handlers are the dispatcher's subscriptions.
func (d *Dispatcher) Handlers() map[string]bus.Handler {
	return map[string]bus.Handler{
		event.TopicRequests:         d.onRequest,
		event.TopicControls:         d.onControl,
		event.TopicTriggers:         d.onTrigger,
		event.TopicPhaseCompletions: d.onProgress,
	}
}

// Run takes over the backfills that nobody drives, admits and calls until ctx ends, then lets calls in
// flight end within the grace and gives its leases up.
func (d *Dispatcher) Run(ctx context.Context) error {
	stop, err := d.Telemetry.Metrics.Observe(d.gauges)
	if err != nil {
		return err
	}
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { d.admitLoop(gctx); return nil })
	g.Go(func() error { d.tickLoop(gctx); return nil })
	g.Go(func() error { d.renewLoop(gctx); return nil })
	g.Go(func() error { d.watchLoop(gctx); return nil })
	g.Go(func() error { d.journal.run(gctx); return nil })
	err = g.Wait()
	d.shutdown(context.WithoutCancel(ctx))
	return err
}

func (d *Dispatcher) shutdown(ctx context.Context) {
	d.mu.Lock()
	d.closed = true // also for jobs that were admitted just now
	drives := make([]*drive, 0, len(d.driven))
	for _, dr := range d.driven {
		drives = append(drives, dr)
	}
	d.mu.Unlock()
	finished := make(chan struct{})
	go func() { d.calls.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(d.Grace):
		for _, dr := range drives {
			dr.cancel()
		}
		<-finished
	}
	for _, dr := range drives {
		dr.cancel()
		d.flush(ctx, dr)
		if err := d.Store.Release(ctx, dr.scope.ID, d.Holder); err != nil {
			d.Log.WarnContext(ctx, "lease not released: it will expire", "backfill_id", dr.scope.ID, "error", err)
		}
	}
	d.journal.flush(ctx)
}

// signal has the admission loop look again.
func (d *Dispatcher) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// admitLoop admits whenever something changed or a limiter has refilled.
func (d *Dispatcher) admitLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		now := d.Now()
		jobs := d.sched.Admit(now)
		next := d.sched.Next(now)
		d.journalWindows(ctx, d.sched.Changes(), now)
		for _, group := range byDate(jobs) {
			if dr := d.driven[group[0].Backfill]; dr != nil {
				d.calls.Add(1)
				go func() { defer d.calls.Done(); d.start(dr, group) }()
			}
		}
		d.mu.Unlock()
		timer.Reset(time.Hour)
		if !next.IsZero() {
			timer.Reset(max(0, next.Sub(now)))
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// byDate groups jobs that share a document.
func byDate(jobs []backfill.Job) [][]backfill.Job {
	type key struct {
		id   string
		date backfill.Date
	}
	var out [][]backfill.Job
	at := map[key]int{}
	for _, j := range jobs {
		k := key{j.Backfill, j.Date}
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], j)
	}
	return out
}

// renewLoop keeps the leases that are held. It has nothing else to do, so that no amount of work, and no slow
// store, makes a lease lapse that another instance would then take over.
func (d *Dispatcher) renewLoop(ctx context.Context) {
	tick := time.NewTicker(d.LeaseTTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var wg sync.WaitGroup
		for _, dr := range d.drives() {
			wg.Go(func() { d.renew(ctx, dr) })
		}
		wg.Wait()
	}
}

// tickLoop looks for backfills to take over, fires timers, writes progress and notices the end.
func (d *Dispatcher) tickLoop(ctx context.Context) {
	tick := time.NewTicker(d.Tick)
	defer tick.Stop()
	var adopted time.Time
	for {
		if now := d.Now(); now.Sub(adopted) >= d.LeaseTTL/3 {
			adopted = now
			d.adopt(ctx)
		}
		for _, dr := range d.drives() {
			d.sweep(ctx, dr)
			d.settle(ctx, dr)
			if d.Now().Sub(dr.flushed) >= flushEvery {
				d.flush(ctx, dr)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *Dispatcher) drives() []*drive {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*drive, 0, len(d.driven))
	for _, dr := range d.driven {
		out = append(out, dr)
	}
	return out
}

func (d *Dispatcher) drive(id string) *drive {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.driven[id]
}
