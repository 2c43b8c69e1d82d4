package dispatch

import (
	"context"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// flushEvery is how old the progress in the backfill document may be.
const flushEvery = time.Second

// rateWindow is the time over which the rate is measured.
const rateWindow = 60

// progress counts a backfill from the news about its dates, without reading any.
type progress struct {
	scope    *backfill.Scope
	phases   map[string]int // position by id
	sums     []backfill.PhaseProgress
	cells    map[backfill.Cell]cell
	dates    map[backfill.Date]int // phases complete
	complete int                   // dates that have all of theirs
	want     map[string]int        // phases of a date, by season
	attempts int
	retries  int
	throttle int
	busy     float64 // seconds, of all attempts together
	bytes    int64   // that processors said they were billed
	spent    spent
	rates    []meter // of each phase
	dirty    bool
}

// cell is the newest that is known of a phase of a date; more facts are newer news.
type cell struct {
	facts int
	tally backfill.Tally
}

// meter measures outcomes per second over the last minute, or since the first when that is shorter.
type meter struct {
	buckets [rateWindow]bucket
	began   time.Time
}

type bucket struct {
	second int64
	n      int
}

func newProgress(s *backfill.Scope, old backfill.Progress) progress {
	p := s.Pipeline
	pr := progress{
		scope: s, phases: map[string]int{}, cells: map[backfill.Cell]cell{}, dates: map[backfill.Date]int{}, want: map[string]int{},
		attempts: old.Attempts, retries: old.Retries, throttle: old.Throttles, busy: old.BusySeconds, bytes: old.BytesReported,
		spent: spent{parts: old.Spend, usd: old.SpendUSD, forecast: old.ForecastUSD},
	}
	for i := range p.Phases {
		pr.phases[p.Phases[i].ID] = i
		pr.sums = append(pr.sums, backfill.PhaseProgress{ID: p.Phases[i].ID})
	}
	pr.rates = make([]meter, len(p.Phases))
	for _, part := range s.Dates.All() {
		if pr.wanted(part.Season) == 0 {
			pr.complete++ // nothing is to be done on it
		}
	}
	return pr
}

// learn takes newer news about a cell.
func (p *progress) learn(c backfill.Cell, facts int, t backfill.Tally) {
	old, known := p.cells[c]
	if known && facts < old.facts {
		return
	}
	i, ok := p.phases[c.Phase]
	if !ok {
		return
	}
	sum := &p.sums[i]
	sum.Add(old.tally, -1)
	sum.Add(t, 1)
	if was, is := known && old.tally.Complete(), t.Complete(); was != is {
		n := 1
		if was {
			n = -1
		}
		sum.DatesComplete += n
		p.countDate(c.Date, n)
	}
	p.cells[c] = cell{facts, t}
	p.dirty = true
}

// countDate notes that a date has one more phase complete, or one less.
func (p *progress) countDate(d backfill.Date, n int) {
	i, ours := p.scope.Dates.Index(d)
	if !ours {
		return
	}
	want := p.wanted(p.scope.Dates.At(i).Season)
	before := p.dates[d]
	p.dates[d] = before + n
	switch want {
	case before + n:
		p.complete++
	case before:
		p.complete--
	}
}

// wanted is how many phases the dates of a season have.
func (p *progress) wanted(season string) int {
	n, known := p.want[season]
	if !known {
		n = len(p.scope.Phases(season))
		p.want[season] = n
	}
	return n
}

// open counts runs that are neither done nor given up, without those that wait for others.
func (p *progress) open() int {
	n := 0
	for i := range p.sums {
		n += p.sums[i].InFlight + p.sums[i].Retrying
	}
	return n
}

// left counts runs that are neither done nor given up.
func (p *progress) left() int {
	n := 0
	for i := range p.sums {
		n += p.sums[i].Pending + p.sums[i].InFlight + p.sums[i].Retrying
	}
	return n
}

// untriggered counts runs in flight that the platform started by itself, which admission does not know of.
func (p *progress) untriggered() int {
	n := 0
	for i := range p.sums {
		if p.scope.Pipeline.Phases[i].Trigger.HTTP == nil {
			n += p.sums[i].InFlight
		}
	}
	return n
}

// inFlight counts a phase's runs in flight.
func (dr *drive) inFlight(phase string) int {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	if i, ok := dr.progress.phases[phase]; ok {
		return dr.progress.sums[i].InFlight
	}
	return 0
}

func (p *progress) hit(phase string, now time.Time) {
	if i, ok := p.phases[phase]; ok {
		p.rates[i].hit(now)
	}
}

func (m *meter) hit(now time.Time) {
	if m.began.IsZero() {
		m.began = now
	}
	b := &m.buckets[now.Unix()%rateWindow]
	if b.second != now.Unix() {
		*b = bucket{second: now.Unix()}
	}
	b.n++
}

func (m *meter) rate(now time.Time) float64 {
	n := 0
	for _, b := range m.buckets {
		if now.Unix()-b.second < rateWindow {
			n += b.n
		}
	}
	if n == 0 {
		return 0
	}
	return float64(n) / min(rateWindow, max(1, now.Sub(m.began).Seconds()))
}

// eta is when the slowest phase will be done at the rates of the last minute; zero when a phase has not begun.
func (p *progress) eta(now time.Time) time.Time {
	longest := time.Duration(0)
	for i := range p.sums {
		left := p.sums[i].Pending + p.sums[i].InFlight + p.sums[i].Retrying
		if left == 0 {
			continue
		}
		rate := p.rates[i].rate(now)
		if rate == 0 {
			return time.Time{}
		}
		longest = max(longest, time.Duration(float64(left)/rate*float64(time.Second)))
	}
	if longest == 0 {
		return time.Time{}
	}
	return now.Add(longest).Truncate(time.Second)
}

// snapshot is the progress as it goes into the document.
func (p *progress) snapshot(now time.Time) backfill.Progress {
	out := backfill.Progress{
		DatesTotal: p.scope.Dates.Len(), DatesComplete: p.complete, Attempts: p.attempts, Retries: p.retries, Throttles: p.throttle, ETA: p.eta(now),
		BusySeconds: p.busy, BytesReported: p.bytes, Spend: p.spent.parts, SpendUSD: p.spent.usd, ForecastUSD: p.spent.forecast,
	}
	for i := range p.sums {
		if p.scope.Selected(p.sums[i].ID) && p.sums[i].Total > 0 {
			out.Phases = append(out.Phases, p.sums[i])
			out.Rate += p.rates[i].rate(now)
		}
	}
	return out
}

// observe takes in a record.
func (d *Dispatcher) observe(dr *drive, rec *backfill.Record) {
	d.recent.Saw(dr.scope, rec)
	for _, ph := range dr.scope.Phases(rec.Season) {
		t := dr.scope.Tally(rec, ph)
		dr.mu.Lock()
		dr.progress.learn(backfill.Cell{Date: rec.Date, Phase: ph.ID}, rec.Len(), t)
		dr.mu.Unlock()
	}
}

// called counts a call.
func (dr *drive) called(a answer) {
	dr.mu.Lock()
	defer dr.mu.Unlock()
	dr.progress.dirty = true
	if a.kind != interrupted {
		dr.progress.attempts++
	}
	if a.kind == throttled {
		dr.progress.throttle++
	}
}

// onProgress takes in what the tracker says, and frees the slots of runs that have ended.
func (d *Dispatcher) onProgress(ctx context.Context, e *event.Event) error {
	m, ok := e.Data.(*pb.PhaseProgressed)
	if !ok {
		return fault.New(fault.Invalid, "event %s of type %s says nothing about a phase", e.ID, e.Type)
	}
	dr := d.drive(m.GetBackfillId())
	if e.Type == event.TypeDateChanged {
		return nil
	}
	date, err := backfill.ParseDate(m.GetDate())
	if err != nil {
		return fault.New(fault.Invalid, "event %s: %w", e.ID, err)
	}
	if dr == nil {
		return d.pass(ctx, m.GetBackfillId(), date)
	}
	now := d.Now()
	bad := m.GetStatus() == string(backfill.Failed) || m.GetStatus() == string(backfill.Rejected)
	dr.mu.Lock()
	t := m.GetTally()
	dr.progress.learn(backfill.Cell{Date: date, Phase: m.GetPhase()}, int(m.GetFacts()), backfill.Tally{
		Total: int(t.GetTotal()), Succeeded: int(t.GetSucceeded()), Skipped: int(t.GetSkipped()), Waived: int(t.GetWaived()),
		InFlight: int(t.GetInFlight()), Retrying: int(t.GetRetrying()), Exhausted: int(t.GetExhausted()), Pending: int(t.GetPending()),
	})
	dr.progress.hit(m.GetPhase(), now)
	dr.heard = now
	dr.progress.busy += m.GetDurationSeconds()
	dr.progress.bytes += m.GetBytesBilled()
	if bad {
		dr.progress.retries++
	}
	dr.patience, dr.nextLook = 0, time.Time{}
	if dr.progress.left() > 0 {
		dr.nextLook = now.Add(lull)
	}
	pause := dr.request.PauseOnFail && t.GetExhausted() > 0 && dr.state == backfill.StateActive
	dr.mu.Unlock()
	key := backfill.RunKey{
		Lane: backfill.Lane{Backfill: dr.scope.ID, Phase: m.GetPhase()}, Date: date, Processor: m.GetProcessor(),
	}
	d.mu.Lock()
	d.sched.Recorded(key)
	d.mu.Unlock()
	a := backfill.Calm
	if bad {
		a = backfill.Neutral
	}
	d.mu.Lock()
	d.sched.Ended(key, int(m.GetAttempt()), a, now)
	d.mu.Unlock()
	d.signal()
	if pause {
		return d.setState(ctx, dr, backfill.StatePausing, "a processor is exhausted and the request says on_exhausted: pause", "sluice")
	}
	return nil
}

// flush writes the progress into the backfill's document.
func (d *Dispatcher) flush(ctx context.Context, dr *drive) {
	now := d.Now()
	dr.mu.Lock()
	dirty := dr.progress.dirty
	dr.progress.dirty = false
	snap := dr.progress.snapshot(now)
	dr.mu.Unlock()
	dr.flushed = now
	if !dirty {
		return
	}
	dr.doc.Lock()
	defer dr.doc.Unlock()
	_, err := d.Store.UpdateBackfill(ctx, dr.scope.ID, dr.epoch, func(b *backfill.Backfill) error {
		snap.DatesFailed, snap.DatesBlocked = b.Progress.DatesFailed, b.Progress.DatesBlocked
		b.Progress = snap
		return nil
	})
	if fault.Is(err, fault.Fenced) {
		d.drop(dr)
		return
	}
	if err != nil {
		d.complain(ctx, dr, "cannot write progress", err)
		dr.mu.Lock()
		dr.progress.dirty = true
		dr.mu.Unlock()
	}
}
