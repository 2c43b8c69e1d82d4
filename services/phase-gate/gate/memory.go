package gate

import (
	"context"
	"sync"
	"time"

	"sluice.dev/pkg/backfill"
)

// memory is what is known for good about a backfill: which phases of which dates are complete, how many of
// the first dates are in a phase, and where nothing is left for the gate to start.
type memory struct {
	mu       sync.Mutex
	complete map[backfill.Cell]bool
	started  map[backfill.Cell]bool
	told     map[backfill.Cell]map[string]bool // processors whose trigger was published
	handled  map[backfill.Cell]bool            // complete, and all that follows from it done
	prefix   map[string]int
}

// remembered bounds how many backfills are remembered at once; forgetting only costs reads.
const remembered = 20

func (g *Gate) remember(key string) *memory {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.memory[key]
	if m == nil {
		if len(g.memory) >= remembered {
			clear(g.memory)
		}
		m = &memory{
			complete: map[backfill.Cell]bool{}, started: map[backfill.Cell]bool{}, handled: map[backfill.Cell]bool{},
			told: map[backfill.Cell]map[string]bool{}, prefix: map[string]int{},
		}
		g.memory[key] = m
	}
	return m
}

func (m *memory) isComplete(c backfill.Cell) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.complete[c]
}

func (m *memory) isStarted(c backfill.Cell) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.started[c]
}

func (m *memory) start(c backfill.Cell) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started[c] = true
}

// doubt has a date looked at, and told of, as if for the first time.
func (m *memory) doubt(d backfill.Date, phases []backfill.Phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range phases {
		c := backfill.Cell{Date: d, Phase: phases[i].ID}
		delete(m.started, c)
		delete(m.told, c)
	}
}

func (m *memory) isTold(c backfill.Cell, processor string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.told[c][processor]
}

func (m *memory) tell(c backfill.Cell, processors []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told[c] == nil {
		m.told[c] = map[string]bool{}
	}
	for _, p := range processors {
		m.told[c][p] = true
	}
}

// allTold says that every processor of a phase of a date was let through and told of, or does not need it.
func (m *memory) allTold(c backfill.Cell, rec *backfill.Record, ph *backfill.Phase) bool {
	for i := range ph.Processors {
		name := ph.Processors[i].Name
		if !triggered(rec, ph, name) || !m.isTold(c, name) {
			return false
		}
	}
	return true
}

func (m *memory) isHandled(c backfill.Cell) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.handled[c]
}

func (m *memory) handle(c backfill.Cell) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handled[c] = true
}

// look is one derivation, with what it has read so far.
type look struct {
	g      *Gate
	scope  *backfill.Scope
	memory *memory
	fresh  map[backfill.Cell]bool // read during this look, complete or not
	news   time.Time              // when the phase was completed whose completion is looked at; zero otherwise
}

var _ backfill.Known = (*look)(nil)

// Complete implements backfill.Known.
func (l *look) Complete(c backfill.Cell) (complete, known bool) {
	if l.memory.isComplete(c) {
		return true, true
	}
	complete, known = l.fresh[c]
	return complete, known
}

// Prefix implements backfill.Known.
func (l *look) Prefix(phase string) int {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	return l.memory.prefix[phase]
}

// advance moves a phase's prefix on as far as it goes.
func (l *look) advance(ctx context.Context, phase string) error {
	at := l.Prefix(phase)
	for ; at < l.scope.Dates.Len(); at++ {
		c := backfill.Cell{Date: l.scope.Dates.At(at).Date, Phase: phase}
		complete, known := l.Complete(c)
		if !known {
			if err := l.learn(ctx, []backfill.Cell{c}); err != nil {
				return err
			}
			complete, _ = l.Complete(c)
		}
		if !complete {
			break
		}
	}
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	l.memory.prefix[phase] = max(at, l.memory.prefix[phase])
	return nil
}

// learn reads the dates of cells that are not known yet.
func (l *look) learn(ctx context.Context, cells []backfill.Cell) error {
	for _, c := range cells {
		if _, known := l.Complete(c); known {
			continue
		}
		if _, err := l.read(ctx, c.Date); err != nil {
			return err
		}
	}
	return nil
}

// read reads a date and remembers what its record says of its phases.
func (l *look) read(ctx context.Context, d backfill.Date) (backfill.Record, error) {
	rec, err := l.g.store.Date(ctx, l.scope.ID, d)
	if err != nil {
		return rec, err
	}
	for i := range l.scope.Pipeline.Phases {
		c := backfill.Cell{Date: d, Phase: l.scope.Pipeline.Phases[i].ID}
		if l.memory.isComplete(c) {
			continue
		}
		complete := l.scope.Complete(&rec, c.Phase)
		l.fresh[c] = complete
		if complete {
			l.memory.mu.Lock()
			l.memory.complete[c] = true
			l.memory.mu.Unlock()
		}
	}
	return rec, nil
}
