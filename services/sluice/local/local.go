// Package local runs the dispatcher, the completion-tracker, the phase-gate and the API in one process on
// the embedded drivers. It only puts parts together.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/membus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/preflight"
	"sluice.dev/pkg/state/sqlitestate"
	"sluice.dev/pkg/telemetry"
	"sluice.dev/pkg/warehouse/sqlitewarehouse"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/completion-tracker/tracker"
	"sluice.dev/services/console/api"
	"sluice.dev/services/dispatcher/dispatch"
	"sluice.dev/services/phase-gate/gate"
)

// Options configures a local Sluice.
type Options struct {
	DataDir   string
	Pipelines map[string]*backfill.Pipeline
	Log       *slog.Logger
	Chaos     *membus.Chaos
	// Tick is how often timers are looked after; 0 means 50 ms.
	Tick time.Duration
	// Keep is how long documents of ended backfills are kept; 0 for ever.
	Keep time.Duration
	// Watch is how often spend and outcomes in the history are looked at; 0 means every second.
	Watch time.Duration
	// Grace is how long calls in flight may go on once the process is to stop; 0 means 4 s.
	Grace time.Duration
}

// latency is about what lies between the end of a run and the next call in one process.
const latency = 20 * time.Millisecond

// Local is a Sluice in one process.
type Local struct {
	opts      Options
	lock      *flock.Flock
	log       *membus.SQLiteLog
	state     *sqlitestate.Store
	warehouse *sqlitewarehouse.Warehouse
	bus       *membus.Bus
	dispatch  *dispatch.Dispatcher
	tracker   *tracker.Tracker
	gate      *gate.Gate
	api       *api.Server
	telemetry *telemetry.Telemetry
}

// Open locks the data directory, opens what is in it, and puts the parts together.
func Open(ctx context.Context, o Options) (*Local, error) {
	if o.Tick == 0 {
		o.Tick = 50 * time.Millisecond
	}
	if o.Watch == 0 {
		o.Watch = time.Second
	}
	if o.Grace == 0 {
		o.Grace = 4 * time.Second
	}
	if err := os.MkdirAll(o.DataDir, 0o750); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	l := &Local{opts: o, lock: flock.New(filepath.Join(o.DataDir, "lock"))}
	held, err := l.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking the data directory %s: %w", o.DataDir, err)
	}
	if !held {
		return nil, fault.New(fault.Conflict, "the data directory %s is in use by another sluice: stop it, or choose another with --data", o.DataDir)
	}
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Local) open(ctx context.Context) (err error) {
	if l.telemetry, err = telemetry.Start(ctx, "sluice-local", true); err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(l.opts.DataDir, name) }
	if l.state, err = sqlitestate.Open(ctx, file("state.db")); err != nil {
		return err
	}
	if l.warehouse, err = sqlitewarehouse.Open(ctx, file("warehouse.db")); err != nil {
		return err
	}
	if l.log, err = membus.OpenLog(ctx, file("bus.db")); err != nil {
		return err
	}
	pipelines := l.opts.Pipelines
	adapters := tracker.Adapters(pipelines)
	subs := []bus.Subscription{
		{Consumer: dispatch.Name, Topic: event.TopicRequests, MaxInFlight: 4},
		{Consumer: dispatch.Name, Topic: event.TopicControls, MaxInFlight: 4},
		{Consumer: dispatch.Name, Topic: event.TopicTriggers},
		{Consumer: dispatch.Name, Topic: event.TopicPhaseCompletions},
		{Consumer: tracker.Name, Topic: event.TopicCompletions},
		{Consumer: gate.Name, Topic: event.TopicPhaseCompletions, MaxInFlight: 128},
		{Consumer: journal, Topic: event.TopicEvents},
	}
	for topic := range adapters {
		subs = append(subs, bus.Subscription{Consumer: tracker.Name, Topic: topic})
	}
	if l.bus, err = membus.New(ctx, membus.Options{
		Subscriptions: subs, Log: l.log, Chaos: l.opts.Chaos, Logger: l.opts.Log,
	}); err != nil {
		return err
	}
	log := l.opts.Log
	l.tracker = tracker.New(l.state, l.bus, pipelines, l.telemetry.Metrics, log, time.Now)
	l.gate = gate.New(l.state, l.bus, gate.Checks{Source: l.warehouse, MissingOK: true, Gather: 20 * time.Millisecond}, l.telemetry.Metrics, log, time.Now)
	plans := &planner.Planner{Pipelines: pipelines, Warehouse: l.warehouse, Latency: latency}
	before := preflight.Preflight{Planner: plans, Probe: preflight.Prober(nil, 200*time.Millisecond), Embedded: true}
	asked := before
	asked.Owners = l.state
	l.api = api.New(l.state, l.bus, &asked, log, time.Now)
	l.dispatch = dispatch.New(dispatch.Options{
		Store: l.state, Bus: l.bus, Telemetry: l.telemetry, Before: &before, Keep: l.opts.Keep, Watch: l.opts.Watch,
		Caller: dispatch.NewCaller(nil), Log: log, Now: time.Now, Holder: "local", LeaseTTL: 30 * time.Second,
		Tick: l.opts.Tick, Grace: l.opts.Grace, Gather: 100 * time.Millisecond,
	})
	return nil
}

// Warehouse is the local warehouse, for the example platform to write to.
func (l *Local) Warehouse() *sqlitewarehouse.Warehouse { return l.warehouse }

// journal is the consumer that keeps backfill-events.
const journal = "journal"

func (l *Local) keep(ctx context.Context, e *event.Event) error {
	m, ok := e.Data.(*pb.BackfillEvent)
	if !ok {
		return fault.New(fault.Invalid, "event %s of type %s is no line of the journal", e.ID, e.Type)
	}
	return l.warehouse.Append(ctx, m)
}

// Serve runs everything until ctx ends, then stops in order: no new requests, no new calls, calls in
// flight within their grace, and the consumers last, so that what ended is recorded.
func (l *Local) Serve(ctx context.Context, listener net.Listener) error {
	consumers, stopConsumers := context.WithCancel(context.WithoutCancel(ctx))
	defer stopConsumers()
	var g errgroup.Group
	receive := func(consumer, topic string, workers int, h bus.Handler) {
		sub := bus.Subscription{Consumer: consumer, Topic: topic, MaxInFlight: workers}
		g.Go(func() error { return l.bus.Receive(consumers, sub, l.telemetry.Handler(consumer, topic, h)) })
	}
	for topic, h := range l.dispatch.Handlers() {
		workers := 0
		if topic == event.TopicRequests || topic == event.TopicControls {
			workers = 4
		}
		receive(dispatch.Name, topic, workers, h)
	}
	for _, topic := range l.tracker.Topics() {
		receive(tracker.Name, topic, 0, l.tracker.Handle(topic))
	}
	receive(gate.Name, event.TopicPhaseCompletions, 128, l.gate.Handle)
	receive(journal, event.TopicEvents, 0, l.keep)

	mux := http.NewServeMux()
	mux.Handle("/", l.api.Handler())
	mux.Handle("GET /metrics", l.telemetry.Scrape)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return consumers }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	err := l.dispatch.Run(ctx)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	l.settle(stopping)
	stopConsumers()
	if shut := server.Shutdown(stopping); shut != nil {
		_ = server.Close() // watchers hold their streams open
	}
	if s := <-served; !errors.Is(s, http.ErrServerClosed) {
		err = errors.Join(err, s)
	}
	return errors.Join(err, g.Wait())
}

// settle gives completions that were published during the stop a moment to be recorded. What is not is in
// the log of the bus, and recorded after the next start.
func (l *Local) settle(ctx context.Context) {
	for ctx.Err() == nil && !l.bus.Idle() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// Close closes the files and frees the data directory.
func (l *Local) Close() error {
	var errs []error
	if l.telemetry != nil {
		errs = append(errs, l.telemetry.Stop(context.Background()))
	}
	if l.log != nil {
		errs = append(errs, l.log.Close())
	}
	if l.warehouse != nil {
		errs = append(errs, l.warehouse.Close())
	}
	if l.state != nil {
		errs = append(errs, l.state.Close())
	}
	return errors.Join(append(errs, l.lock.Unlock())...)
}
