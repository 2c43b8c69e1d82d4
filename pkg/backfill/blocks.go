package backfill

import "slices"

// Blocked finds the cells that cannot complete because others do not, by following what each phase waits for.
type Blocked struct {
	scope *Scope
	seen  map[Cell][]Cell
}

// NewBlocked prepares the search; it remembers what it found, as failures often block the same cells.
func NewBlocked(s *Scope) *Blocked { return &Blocked{s, map[Cell][]Cell{}} }

// By lists every cell that waits, directly or through others, for the cell, nearest first.
func (b *Blocked) By(c Cell) []Cell {
	if out, ok := b.seen[c]; ok {
		return out
	}
	seen := map[Cell]bool{c: true}
	queue, out := []Cell{c}, []Cell(nil)
	for len(queue) > 0 {
		cur := queue[0]
		queue = queue[1:]
		for _, next := range b.waiters(cur) {
			if !seen[next] {
				seen[next] = true
				queue, out = append(queue, next), append(out, next)
			}
		}
	}
	b.seen[c] = out
	return out
}

// ByCheck lists every cell that waits for a failed check of a phase: what comes after it on the same date, and what
// waits for that.
func (b *Blocked) ByCheck(c Cell) []Cell {
	i, ok := b.scope.Dates.Index(c.Date)
	if !ok {
		return nil
	}
	seen := map[Cell]bool{}
	var out []Cell
	for _, ph := range b.scope.Phases(b.scope.Dates.At(i).Season) {
		if !slices.Contains(ph.After, c.Phase) {
			continue
		}
		first := Cell{c.Date, ph.ID}
		for _, cell := range append([]Cell{first}, b.By(first)...) {
			if !seen[cell] {
				seen[cell] = true
				out = append(out, cell)
			}
		}
	}
	return out
}

// waiters lists the cells that wait for this one directly.
func (b *Blocked) waiters(c Cell) []Cell {
	var out []Cell
	i, ok := b.scope.Dates.Index(c.Date)
	if !ok {
		return nil
	}
	for _, ph := range b.scope.Phases(b.scope.Dates.At(i).Season) {
		if ph.ID != c.Phase && b.scope.waitsFor(ph, c.Phase) {
			out = append(out, Cell{c.Date, ph.ID})
		}
	}
	for _, d := range b.scope.Dependents(c.Date, c.Phase, everything{b.scope.Dates.Len()}) {
		j, _ := b.scope.Dates.Index(d)
		for _, ph := range b.scope.Phases(b.scope.Dates.At(j).Season) {
			if b.scope.waitsForCell(ph, d, c) {
				out = append(out, Cell{d, ph.ID})
			}
		}
	}
	return out
}

// everything is a Known that has all dates complete, and nothing one that has none.
type everything struct{ dates int }

func (everything) Complete(Cell) (complete, known bool) { return true, true }
func (e everything) Prefix(string) int                  { return e.dates }

// waitsFor says whether a phase waits for another on the same date. A phase that the season does not have
// stands aside: what comes after it waits for what came before it.
func (s *Scope) waitsFor(ph *Phase, other string) bool {
	for _, after := range ph.After {
		if after == other && !ph.GateNeeds {
			return true
		}
		if prev, ok := s.Pipeline.Phase(after); ok && !s.selected[after] && s.waitsFor(prev, other) {
			return true
		}
	}
	for i := range ph.Processors {
		for _, n := range ph.Processors[i].Needs {
			if n.Phase == other {
				return true
			}
		}
		for _, w := range ph.Processors[i].Windows {
			if w.Phase == other && other != ph.ID {
				return true
			}
		}
	}
	return false
}

func (s *Scope) waitsForCell(ph *Phase, d Date, c Cell) bool {
	at, ok := s.Dates.Index(c.Date)
	if !ok {
		return false
	}
	within := func(x stretch) bool { return x.contains(c.Phase, at) }
	if slices.ContainsFunc(s.barrier(d, ph), within) {
		return true
	}
	for i := range ph.Processors {
		for _, w := range ph.Processors[i].Windows {
			if within(s.covered(w, ph.ID, d)) {
				return true
			}
		}
	}
	return false
}
