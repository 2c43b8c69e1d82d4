// Package gate opens phases. It is the only writer of triggered marks: whenever something about a date may
// have changed it derives, for that date and for those that wait for it, which processors may start, marks
// them, and publishes phase-triggers.
package gate

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/telemetry"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Name is the consumer's name in subscriptions and the source of its events.
const Name = "phase-gate"

// Gate handles news about phases. What it remembers only saves reads: none of it ever becomes untrue.
type Gate struct {
	store   state.Store
	scopes  *state.Scopes
	pub     bus.Publisher
	checks  *checker
	metrics *telemetry.Metrics
	log     *slog.Logger
	now     func() time.Time

	mu     sync.Mutex
	memory map[string]*memory // by backfill
}

// New makes a gate.
func New(store state.Store, pub bus.Publisher, checks Checks, metrics *telemetry.Metrics, log *slog.Logger, now func() time.Time) *Gate {
	return &Gate{
		store: store, scopes: state.NewScopes(store, 10*time.Second), pub: pub, log: log, now: now, memory: map[string]*memory{},
		metrics: metrics, checks: &checker{Checks: checks, batches: map[batchKey]*batch{}, running: map[batchKey]*sync.Mutex{}},
	}
}

// Handle is the handler for phase-completions.
func (g *Gate) Handle(ctx context.Context, e *event.Event) error {
	m, ok := e.Data.(*pb.PhaseProgressed)
	if !ok {
		return fault.New(fault.Invalid, "event %s of type %s says nothing about a phase", e.ID, e.Type)
	}
	if e.Type == event.TypeProgressed && !m.GetUnblocks() {
		return nil
	}
	scope, err := g.scopes.Get(ctx, m.GetBackfillId(), g.now())
	if err != nil {
		return unlessGone(err)
	}
	date, err := backfill.ParseDate(m.GetDate())
	if err != nil {
		return fault.New(fault.Invalid, "event %s: %w", e.ID, err)
	}
	cell := backfill.Cell{Date: date, Phase: m.GetPhase()}
	if e.Type == event.TypeDateChanged {
		g.remember(scope.Key).doubt(date, scope.Pipeline.Phases)
	}
	if e.Type == event.TypePhaseDone && g.remember(scope.Key).isHandled(cell) {
		return nil // completions that were recorded together each tell of it
	}
	look := &look{g: g, scope: scope, memory: g.remember(scope.Key), fresh: map[backfill.Cell]bool{}}
	if e.Type == event.TypePhaseDone {
		look.news = e.Time
	}
	rec, err := look.read(ctx, date)
	if err != nil {
		return unlessGone(err)
	}
	if err := look.open(ctx, &rec, scope.Phases(rec.Season)); err != nil {
		return err
	}
	if e.Type == event.TypeProgressed {
		return nil // other dates wait for whole phases
	}
	if err := look.dependents(ctx, &rec, e.Type, m.GetPhase()); err != nil {
		return err
	}
	if e.Type == event.TypePhaseDone && scope.Complete(&rec, cell.Phase) {
		look.memory.handle(cell)
	}
	return nil
}

// unlessGone acknowledges news about a backfill that does not exist any more.
func unlessGone(err error) error {
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// open marks and publishes what may start on a date in the given phases.
func (l *look) open(ctx context.Context, rec *backfill.Record, phases []*backfill.Phase) error {
	for _, ph := range phases {
		cell := backfill.Cell{Date: rec.Date, Phase: ph.ID}
		if l.memory.isStarted(cell) {
			continue
		}
		if !l.closed(rec, ph) {
			l.memory.start(cell)
			continue
		}
		o, err := l.decide(ctx, rec, ph)
		if err != nil {
			return err
		}
		if err := l.trigger(ctx, rec, ph, o.Start); err != nil {
			return err
		}
		if l.memory.allTold(cell, rec, ph) {
			l.memory.start(cell)
		}
	}
	return nil
}

// closed says whether the gate may still have something to do: a processor that was never dispatched, or one
// that reported by itself, and without success, before it was let through. What comes after is not the gate's.
func (l *look) closed(rec *backfill.Record, ph *backfill.Phase) bool {
	for i := range ph.Processors {
		state := rec.Run(l.scope.ID, ph, &ph.Processors[i]).State
		if state == backfill.RunPending || (!state.Done() && !triggered(rec, ph, ph.Processors[i].Name)) {
			return true
		}
	}
	return false
}

// triggered says whether the gate has let a processor through.
func triggered(rec *backfill.Record, ph *backfill.Phase, processor string) bool {
	return rec.Has(backfill.Key{Phase: ph.ID, Kind: backfill.Triggered}) ||
		rec.Has(backfill.Key{Phase: ph.ID, Processor: processor, Kind: backfill.Triggered})
}

// decide asks the core, reading the dates it needs to know about: the first alone, as it often settles the
// matter, then twice as many each time.
func (l *look) decide(ctx context.Context, rec *backfill.Record, ph *backfill.Phase) (backfill.Opening, error) {
	for n := 1; ; n *= 2 {
		o := l.scope.Open(rec, ph, l)
		for _, phase := range o.Checks {
			if err := l.check(ctx, rec, phase); err != nil {
				return o, err
			}
		}
		if len(o.Checks) > 0 {
			n = 1
			o = l.scope.Open(rec, ph, l)
		}
		if len(o.Ask) == 0 {
			return o, nil
		}
		if err := l.learn(ctx, o.Ask[:min(n, len(o.Ask))]); err != nil {
			return o, err
		}
	}
}

// trigger adds the marks that are missing and publishes for every processor that has not been dispatched
// yet, or must be again, unless that was done already: a trigger that got lost with a process is told again.
func (l *look) trigger(ctx context.Context, rec *backfill.Record, ph *backfill.Phase, start []string) error {
	var marks []backfill.Fact
	var names []string
	now := l.g.now()
	whole := len(start) == len(ph.Processors)
	cell := backfill.Cell{Date: rec.Date, Phase: ph.ID}
	for _, name := range start {
		proc, _ := ph.Processor(name)
		key := backfill.Key{Phase: ph.ID, Processor: name, Kind: backfill.Triggered}
		if whole {
			key.Processor = ""
		}
		if !triggered(rec, ph, key.Processor) && (!whole || len(marks) == 0) {
			marks = append(marks, backfill.Fact{Key: key, Value: backfill.Value{At: now}})
		}
		if s := rec.Run(l.scope.ID, ph, proc).State; (s == backfill.RunPending || s == backfill.RunRetrying) && !l.memory.isTold(cell, name) {
			names = append(names, name)
		}
	}
	if len(marks) > 0 {
		merged, err := l.g.store.Merge(ctx, l.scope.ID, rec.Date, time.Time{}, marks...)
		if err != nil {
			return err
		}
		*rec = merged
	}
	if len(names) > 0 {
		m := &pb.PhaseTriggered{
			BackfillId: l.scope.ID, Pipeline: l.scope.Pipeline.Name, Date: rec.Date.String(), Phase: ph.ID, Processors: names,
		}
		subject := event.Subject(m.GetBackfillId(), m.GetDate(), m.GetPhase())
		if err := l.g.pub.Publish(ctx, event.TopicTriggers, event.New(event.TypeTriggered, Name, subject, now, m, names...)); err != nil {
			return err
		}
		l.memory.tell(cell, names)
		if !l.news.IsZero() {
			l.g.metrics.Took(ctx, telemetry.GateLatency, max(0, now.Sub(l.news)), "pipeline", l.scope.Pipeline.Name, "phase", ph.ID)
		}
	}
	if len(marks) == 0 {
		return nil
	}
	return l.g.pub.Publish(ctx, event.TopicEvents, event.Journal(Name, now, &pb.BackfillEvent{
		BackfillId: l.scope.ID, Pipeline: l.scope.Pipeline.Name, Kind: "triggered", Date: rec.Date.String(), Phase: ph.ID,
	}, start...))
}

// dependents looks at the other dates that may have waited for this one.
func (l *look) dependents(ctx context.Context, rec *backfill.Record, typ, phase string) error {
	for i := range l.scope.Pipeline.Phases {
		ph := &l.scope.Pipeline.Phases[i]
		if typ == event.TypePhaseDone && ph.ID != phase && ph.AppliesTo(rec.Season) {
			continue // only this phase, and those that stand aside after it, have news for others
		}
		if !l.scope.Complete(rec, ph.ID) {
			continue
		}
		if err := l.waiting(ctx, backfill.Cell{Date: rec.Date, Phase: ph.ID}); err != nil {
			return err
		}
	}
	return nil
}

// waiting looks at every date that waits for a cell. Dates are tried in order; as long as one and the same
// incomplete cell holds them back, they are not even read.
func (l *look) waiting(ctx context.Context, done backfill.Cell) error {
	if l.scope.Order == backfill.OrderPhaseByPhase {
		if err := l.advance(ctx, done.Phase); err != nil {
			return err
		}
	}
	for _, d := range l.scope.Dependents(done.Date, done.Phase, l) {
		i, ok := l.scope.Dates.Index(d)
		if !ok {
			continue
		}
		var phases []*backfill.Phase
		for _, ph := range l.scope.Phases(l.scope.Dates.At(i).Season) {
			if l.memory.isStarted(backfill.Cell{Date: d, Phase: ph.ID}) {
				continue
			}
			if held, err := l.held(ctx, d, ph, done); err != nil {
				return err
			} else if !held {
				phases = append(phases, ph)
			}
		}
		if len(phases) == 0 {
			continue
		}
		rec, err := l.read(ctx, d)
		if err != nil {
			return err
		}
		if err := l.open(ctx, &rec, phases); err != nil {
			return err
		}
	}
	return nil
}

// held says that a phase of a date has nothing to do with a cell, or that other dates still hold it back.
func (l *look) held(ctx context.Context, d backfill.Date, ph *backfill.Phase, done backfill.Cell) (bool, error) {
	for n := 1; ; n *= 2 {
		held, ask := l.scope.Held(d, ph, done, l)
		if len(ask) == 0 {
			return held, nil
		}
		if err := l.learn(ctx, ask[:min(n, len(ask))]); err != nil {
			return true, err
		}
	}
}
