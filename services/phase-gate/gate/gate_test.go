package gate_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state/sqlitestate"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/phase-gate/gate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)

const day = backfill.Date(19700)

// world is a backfill of n dates with phases one (a, b), two (c, then d) and three, whose e reads two dates back.
type world struct {
	t     *testing.T
	store *sqlitestate.Store
	gate  *gate.Gate

	mu   sync.Mutex
	sent []string // phase-triggers, as date/phase/processors
	fail bool
}

func (w *world) Publish(_ context.Context, topic string, events ...*event.Event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail {
		return fault.New(fault.Unavailable, "the bus is down")
	}
	for _, e := range events {
		if m, ok := e.Data.(*pb.PhaseTriggered); ok && topic == event.TopicTriggers {
			for _, p := range m.GetProcessors() {
				w.sent = append(w.sent, m.GetDate()[8:]+" "+p)
			}
		}
	}
	return nil
}

func newWorld(t *testing.T, n int, order backfill.Order) *world {
	t.Helper()
	s, err := sqlitestate.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	proc := func(name string) backfill.Processor {
		return backfill.Processor{Name: name, Timeout: time.Minute, Attempts: 2}
	}
	d, e := proc("d"), proc("e")
	d.Needs = []backfill.Ref{{Phase: "two", Processor: "c"}}
	e.Windows = []backfill.Window{{Phase: "two", Games: 2}}
	p := &backfill.Pipeline{Name: "p", Phases: []backfill.Phase{
		{ID: "one", Processors: []backfill.Processor{proc("a"), proc("b")}},
		{ID: "two", After: []string{"one"}, Processors: []backfill.Processor{proc("c"), d}},
		{ID: "three", After: []string{"two"}, Processors: []backfill.Processor{e}},
	}}
	var parts []backfill.Partition
	var records []backfill.Record
	for i := range n {
		parts = append(parts, backfill.Partition{Date: day + backfill.Date(i)})
		records = append(records, backfill.NewRecord(day+backfill.Date(i), ""))
	}
	cal := backfill.NewCalendar(parts)
	b := &backfill.Backfill{ID: "b", Version: "v", State: backfill.StateActive, Request: backfill.Request{ID: "b", Pipeline: "p", Order: order}, Calendar: cal, Dates: cal}
	if err := s.PutPipeline(t.Context(), "v", p); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.CreateBackfill(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateDates(t.Context(), "b", records); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: s}
	w.forget()
	return w
}

// forget makes a new gate, as after a restart.
func (w *world) forget() {
	w.gate = gate.New(w.store, w, gate.Checks{}, nil, slog.New(slog.DiscardHandler), func() time.Time { return now })
}

// news tells the gate of a date, and returns what it triggered.
func (w *world) news(typ string, i int, phase string, unblocks bool) []string {
	w.t.Helper()
	w.mu.Lock()
	w.sent = nil
	w.mu.Unlock()
	m := &pb.PhaseProgressed{BackfillId: "b", Pipeline: "p", Date: (day + backfill.Date(i)).String(), Phase: phase, Unblocks: unblocks}
	if err := w.gate.Handle(w.t.Context(), event.New(typ, "//test", "", now, m)); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.sent)
	return w.sent
}

// done records successes of a date.
func (w *world) done(i int, phase string, processors ...string) {
	w.t.Helper()
	for _, p := range processors {
		f := backfill.Fact{Key: backfill.Key{Phase: phase, Processor: p, Attempt: 1, Kind: backfill.Succeeded}, Value: backfill.Value{At: now}}
		if _, err := w.store.Merge(w.t.Context(), "b", day+backfill.Date(i), time.Time{}, f); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) want(got []string, want ...string) {
	w.t.Helper()
	if !slices.Equal(got, want) {
		w.t.Errorf("triggered %v, want %v", got, want)
	}
}

func TestOpensWhatMayStartAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, backfill.OrderOverlap)
	w.want(w.news(event.TypeDateChanged, 0, "", false), "09 a", "09 b")
	w.want(w.news(event.TypeDateChanged, 0, "", false), "09 a", "09 b") // nobody called them yet: told again
	w.done(0, "one", "a")
	w.want(w.news(event.TypeProgressed, 0, "one", false))
	w.done(0, "one", "b")
	w.want(w.news(event.TypePhaseDone, 0, "one", false), "09 c")
	w.done(0, "two", "c")
	w.want(w.news(event.TypeProgressed, 0, "two", false)) // news that unblocks nothing is not even looked at
	w.want(w.news(event.TypeProgressed, 0, "two", true), "09 d")
	w.done(0, "two", "d")
	w.want(w.news(event.TypePhaseDone, 0, "two", false), "09 e")
	w.done(0, "three", "e")
	w.want(w.news(event.TypePhaseDone, 0, "three", false))
}

// A processor that the platform starts by itself may fail before its gate opens. It is let through then, so
// that it is tried again.
func TestWhatFailedBeforeItsTimeIsLetThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, backfill.OrderOverlap)
	w.done(0, "one", "a", "b")
	w.done(0, "two", "d")
	early := backfill.Fact{Key: backfill.Key{Phase: "two", Processor: "c", Attempt: 1, Kind: backfill.Failed}, Value: backfill.Value{At: now}}
	if _, err := w.store.Merge(t.Context(), "b", day, time.Time{}, early); err != nil {
		t.Fatal(err)
	}
	w.want(w.news(event.TypePhaseDone, 0, "one", false), "09 c")
	w.want(w.news(event.TypePhaseDone, 0, "one", false)) // it is let through: the rest is the dispatcher's
}

func TestAWindowOpensTheDatesThatWaited(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4, backfill.OrderOverlap)
	for i := range 4 {
		w.done(i, "one", "a", "b")
		if i != 1 {
			w.done(i, "two", "c", "d")
		}
	}
	w.want(w.news(event.TypePhaseDone, 0, "two", false), "09 e")
	w.want(w.news(event.TypePhaseDone, 3, "two", false)) // the 12th waits for the 10th
	w.want(w.news(event.TypePhaseDone, 2, "two", false))
	w.done(1, "two", "c", "d")
	w.forget()
	w.want(w.news(event.TypePhaseDone, 1, "two", false), "10 e", "11 e", "12 e")
}

func TestPhaseByPhaseOpensAllAtTheLastOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, backfill.OrderPhaseByPhase)
	for i := range 3 {
		w.done(i, "one", "a")
	}
	w.done(0, "one", "b")
	w.done(2, "one", "b")
	w.want(w.news(event.TypePhaseDone, 0, "one", false))
	w.want(w.news(event.TypePhaseDone, 2, "one", false))
	w.done(1, "one", "b")
	w.want(w.news(event.TypePhaseDone, 1, "one", false), "09 c", "10 c", "11 c")
}

func TestDateByDateOpensTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3, backfill.OrderDateByDate)
	w.want(w.news(event.TypeDateChanged, 1, "", false))
	w.done(0, "one", "a", "b")
	w.done(0, "two", "c", "d")
	w.want(w.news(event.TypePhaseDone, 0, "two", false), "09 e")
	w.done(0, "three", "e")
	w.want(w.news(event.TypePhaseDone, 0, "three", false), "10 a", "10 b")
}

func TestAFailedPublishIsToldAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, backfill.OrderOverlap)
	w.fail = true
	m := &pb.PhaseProgressed{BackfillId: "b", Date: day.String()}
	if err := w.gate.Handle(t.Context(), event.New(event.TypeDateChanged, "//test", "", now, m)); !fault.Retryable(err) {
		t.Errorf("acknowledged although nothing was published: %v", err)
	}
	w.fail = false
	w.want(w.news(event.TypeDateChanged, 0, "", false), "09 a", "09 b")
}

func TestNewsAboutNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, backfill.OrderOverlap)
	for _, m := range []*pb.PhaseProgressed{{BackfillId: "gone", Date: day.String()}, {BackfillId: "b", Date: "2020-01-01"}} {
		if err := w.gate.Handle(t.Context(), event.New(event.TypeDateChanged, "//test", "", now, m)); err != nil {
			t.Errorf("%v: %v", m, err)
		}
	}
	bad := &pb.PhaseProgressed{BackfillId: "b", Date: "soon"}
	if err := w.gate.Handle(t.Context(), event.New(event.TypeDateChanged, "//test", "", now, bad)); !fault.Is(err, fault.Invalid) {
		t.Errorf("%v", err)
	}
	if err := w.gate.Handle(t.Context(), &event.Event{Type: "x"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("%v", err)
	}
}

// changed asks the gate to look at a date.
func changed(d backfill.Date) *pb.PhaseProgressed {
	return &pb.PhaseProgressed{BackfillId: "b", Pipeline: "p", Date: d.String()}
}
