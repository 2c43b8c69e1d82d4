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
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Name is the consumer's name in subscriptions and the source of its events.
const Name = "phase-gate"

// Gate handles news about phases. What it remembers only saves reads: that a cell is complete stays true.
type Gate struct {
	store  state.Store
	scopes *state.Scopes
	pub    bus.Publisher
	log    *slog.Logger
	now    func() time.Time

	mu       sync.Mutex
	complete map[string]map[backfill.Cell]bool
}

// New makes a gate.
func New(store state.Store, pub bus.Publisher, log *slog.Logger, now func() time.Time) *Gate {
	return &Gate{
		store: store, scopes: state.NewScopes(store, 10*time.Second), pub: pub, log: log, now: now,
		complete: map[string]map[backfill.Cell]bool{},
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
	look := &look{g: g, scope: scope, fresh: map[backfill.Cell]bool{}}
	rec, err := g.store.Date(ctx, scope.ID, date)
	if err != nil {
		return unlessGone(err)
	}
	look.learn(&rec)
	if err := look.open(ctx, &rec, ""); err != nil {
		return err
	}
	return look.dependents(ctx, &rec, e.Type, m.GetPhase())
}

// unlessGone acknowledges news about a backfill that does not exist any more.
func unlessGone(err error) error {
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// look is one derivation, with what it has read so far.
type look struct {
	g     *Gate
	scope *backfill.Scope
	fresh map[backfill.Cell]bool // read during this look, complete or not
}

// learn remembers what a record says of its phases.
func (l *look) learn(rec *backfill.Record) {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	known := l.g.complete[l.scope.ID]
	if known == nil {
		if len(l.g.complete) > 20 {
			clear(l.g.complete)
		}
		known = map[backfill.Cell]bool{}
		l.g.complete[l.scope.ID] = known
	}
	for i := range l.scope.Pipeline.Phases {
		c := backfill.Cell{Date: rec.Date, Phase: l.scope.Pipeline.Phases[i].ID}
		l.fresh[c] = l.scope.Complete(rec, c.Phase)
		if l.fresh[c] {
			known[c] = true
		}
	}
}

func (l *look) known(c backfill.Cell) (complete, known bool) {
	l.g.mu.Lock()
	complete = l.g.complete[l.scope.ID][c]
	l.g.mu.Unlock()
	if complete {
		return true, true
	}
	complete, known = l.fresh[c]
	return complete, known
}

// decide asks the core, reading the dates it needs to know about: the first alone, as it often settles the
// matter, then twice as many each time.
func (l *look) decide(ctx context.Context, rec *backfill.Record, ph *backfill.Phase) (backfill.Opening, error) {
	for n := 1; ; n *= 2 {
		o := l.scope.Open(rec, ph, l.known)
		if len(o.Ask) == 0 {
			return o, nil
		}
		for _, c := range o.Ask[:min(n, len(o.Ask))] {
			if _, known := l.known(c); known {
				continue
			}
			other, err := l.g.store.Date(ctx, l.scope.ID, c.Date)
			if err != nil {
				return o, err
			}
			l.learn(&other)
		}
	}
}

// open marks and publishes what may start on a date: in one phase, or in all of them.
func (l *look) open(ctx context.Context, rec *backfill.Record, only string) error {
	for _, ph := range l.scope.Phases(rec.Season) {
		if only != "" && ph.ID != only {
			continue
		}
		o, err := l.decide(ctx, rec, ph)
		if err != nil {
			return err
		}
		if err := l.trigger(ctx, rec, ph, o.Start); err != nil {
			return err
		}
	}
	return nil
}

// trigger adds the marks that are missing and publishes for every processor that has not been dispatched
// yet, so that a trigger that got lost is told again.
func (l *look) trigger(ctx context.Context, rec *backfill.Record, ph *backfill.Phase, start []string) error {
	var marks []backfill.Fact
	var names []string
	now := l.g.now()
	whole := len(start) == len(ph.Processors)
	for _, name := range start {
		proc, _ := ph.Processor(name)
		key := backfill.Key{Phase: ph.ID, Processor: name, Kind: backfill.Triggered}
		if whole {
			key.Processor = ""
		}
		if !rec.Has(key) && !rec.Has(backfill.Key{Phase: ph.ID, Kind: backfill.Triggered}) && (!whole || len(marks) == 0) {
			marks = append(marks, backfill.Fact{Key: key, Value: backfill.Value{At: now}})
		}
		if rec.Run(l.scope.ID, ph, proc).State == backfill.RunPending {
			names = append(names, name)
		}
	}
	if len(marks) > 0 {
		merged, err := l.g.store.Merge(ctx, l.scope.ID, rec.Date, time.Time{}, marks...)
		if err != nil {
			return err
		}
		*rec = merged
		err = l.g.pub.Publish(ctx, event.TopicEvents, event.Journal(Name, now, &pb.BackfillEvent{
			BackfillId: l.scope.ID, Pipeline: l.scope.Pipeline.Name, Kind: "triggered", Date: rec.Date.String(), Phase: ph.ID,
		}, start...))
		if err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	m := &pb.PhaseTriggered{
		BackfillId: l.scope.ID, Pipeline: l.scope.Pipeline.Name, Date: rec.Date.String(), Phase: ph.ID, Processors: names,
	}
	subject := event.Subject(m.GetBackfillId(), m.GetDate(), m.GetPhase())
	return l.g.pub.Publish(ctx, event.TopicTriggers, event.New(event.TypeTriggered, Name, subject, now, m, names...))
}

// dependents looks at the other dates that may have waited for this one.
func (l *look) dependents(ctx context.Context, rec *backfill.Record, typ, phase string) error {
	for i := range l.scope.Pipeline.Phases {
		id := l.scope.Pipeline.Phases[i].ID
		if typ == event.TypePhaseDone && id != phase {
			continue // only this phase has news for others
		}
		if !l.scope.Complete(rec, id) {
			continue
		}
		if err := l.waiting(ctx, backfill.Cell{Date: rec.Date, Phase: id}); err != nil {
			return err
		}
	}
	return nil
}

// waiting opens what waits for a cell. Dates are tried in order; as long as one and the same incomplete
// cell holds them back, they are not even read.
func (l *look) waiting(ctx context.Context, done backfill.Cell) error {
	for _, d := range l.scope.Dependents(done.Date, done.Phase) {
		i, ok := l.scope.Dates.Index(d)
		if !ok {
			continue
		}
		bare := backfill.NewRecord(d, l.scope.Dates.At(i).Season)
		held := true
		for _, ph := range l.scope.Phases(bare.Season) {
			if blocked, err := l.held(ctx, &bare, ph, done); err != nil {
				return err
			} else if !blocked {
				held = false
				break
			}
		}
		if held {
			continue
		}
		rec, err := l.g.store.Date(ctx, l.scope.ID, d)
		if err != nil {
			return err
		}
		l.learn(&rec)
		if err := l.open(ctx, &rec, ""); err != nil {
			return err
		}
	}
	return nil
}

// held says that a phase of a date has nothing to do with a cell, or that other dates still hold it back.
func (l *look) held(ctx context.Context, bare *backfill.Record, ph *backfill.Phase, done backfill.Cell) (bool, error) {
	for n := 1; ; n *= 2 {
		held, ask := l.scope.Held(bare.Date, ph, done, l.known)
		if len(ask) == 0 {
			return held, nil
		}
		for _, c := range ask[:min(n, len(ask))] {
			if _, known := l.known(c); known {
				continue
			}
			other, err := l.g.store.Date(ctx, l.scope.ID, c.Date)
			if err != nil {
				return true, err
			}
			l.learn(&other)
		}
	}
}
