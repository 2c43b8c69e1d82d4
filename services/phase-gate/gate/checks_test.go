package gate_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/warehouse"
	"sluice.dev/services/phase-gate/gate"
)

// data answers a check's query with the dates that are bad.
type data struct {
	mu      sync.Mutex
	bad     []backfill.Date
	fail    error
	asked   [][]backfill.Date
	waiting chan struct{} // when set, queries wait for it
}

func (d *data) Dialect() warehouse.Dialect {
	same := func(s string) string { return s }
	return warehouse.Dialect{Quote: same, Day: same, In: same, Number: same}
}

func (d *data) Select(_ context.Context, _, _ string, dates []backfill.Date, f func([]string, []any) error) error {
	d.mu.Lock()
	d.asked = append(d.asked, dates)
	waiting := d.waiting
	d.mu.Unlock()
	if waiting != nil {
		<-waiting
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, bad := range d.bad {
		if slices.Contains(dates, bad) {
			if err := f([]string{"day", "what"}, []any{bad.String(), "odd"}); err != nil {
				return err
			}
		}
	}
	return d.fail
}

// checked is a world whose phase one has a blocking check, and one that is not, over data.
func checked(t *testing.T, n int) (*world, *data) {
	t.Helper()
	w := newWorld(t, n, backfill.OrderOverlap)
	p, err := w.store.Pipeline(t.Context(), "p", "v")
	if err != nil {
		t.Fatal(err)
	}
	p.Partition.Column = "day"
	p.Checks = []backfill.Check{
		{Name: "sane", After: "one", Kind: "sql", Query: "q", Expect: "no_rows", Blocking: true},
		{Name: "other", After: "one", Kind: "sql", Query: "q", Expect: "rows"},
	}
	if err := w.store.PutPipeline(t.Context(), "checked", p); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.UpdateBackfill(t.Context(), "b", 0, func(b *backfill.Backfill) error { b.Version = "checked"; return nil }); err != nil {
		t.Fatal(err)
	}
	d := &data{}
	w.gate = gate.New(w.store, w, gate.Checks{Source: d}, nil, slog.New(slog.DiscardHandler), func() time.Time { return now })
	return w, d
}

func (w *world) amend(i int, f backfill.Fact) {
	w.t.Helper()
	f.At = now
	if _, err := w.store.Merge(w.t.Context(), "b", day+backfill.Date(i), time.Time{}, f); err != nil {
		w.t.Fatal(err)
	}
}

func TestABlockingCheckHoldsExactlyTheDatesThatFail(t *testing.T) {
	t.Parallel()
	w, d := checked(t, 3)
	d.bad = []backfill.Date{day + 1}
	for i := range 3 {
		w.done(i, "one", "a", "b")
	}
	w.want(w.news(event.TypePhaseDone, 0, "one", false), "09 c")
	w.want(w.news(event.TypePhaseDone, 1, "one", false))
	w.want(w.news(event.TypePhaseDone, 2, "one", false), "11 c")
	w.want(w.news(event.TypeDateChanged, 1, "", false)) // looked at again, it is not run again
	if len(d.asked) != 3 {
		t.Errorf("%d queries, not one for each date and only for the blocking check", len(d.asked))
	}
	p, _ := w.store.Pipeline(t.Context(), "p", "checked")
	rec, err := w.store.Date(t.Context(), "b", day+1)
	if run := rec.Check(&p.Checks[0]); err != nil || run.State != backfill.CheckIsBad || !strings.Contains(run.Detail, "1 rows, the first is day=2023-12-10 what=odd") {
		t.Errorf("%+v, %v", run, err)
	}
	// Tried again after the data were mended.
	d.bad = nil
	ref := p.Checks[0].Ref()
	w.amend(1, backfill.Fact{Key: backfill.Key{Phase: ref.Phase, Processor: ref.Processor, Attempt: 1, Kind: backfill.Retried}})
	w.want(w.news(event.TypeDateChanged, 1, "", false), "10 c")
}

func TestAWaivedCheckLetsGo(t *testing.T) {
	t.Parallel()
	w, d := checked(t, 1)
	d.bad = []backfill.Date{day}
	w.done(0, "one", "a", "b")
	w.want(w.news(event.TypePhaseDone, 0, "one", false))
	w.amend(0, backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "check:sane", Kind: backfill.Waived}})
	w.want(w.news(event.TypeDateChanged, 0, "", false), "09 c")
}

func TestACheckThatCannotBeAskedOpensNothing(t *testing.T) {
	t.Parallel()
	w, d := checked(t, 1)
	d.fail = fault.New(fault.Unavailable, "no answer")
	w.done(0, "one", "a", "b")
	e := event.New(event.TypeDateChanged, "//test", "", now, changed(day))
	if err := w.gate.Handle(t.Context(), e); !fault.Is(err, fault.Unavailable) || len(w.sent) != 0 {
		t.Errorf("%v, triggered %v", err, w.sent)
	}
	d.fail = nil
	w.want(w.news(event.TypeDateChanged, 0, "", false), "09 c")
}

func TestDatesThatWaitShareAQuery(t *testing.T) {
	t.Parallel()
	const n = 20
	w, d := checked(t, n)
	w.gate = gate.New(w.store, w, gate.Checks{Source: d, Gather: 100 * time.Millisecond}, nil, slog.New(slog.DiscardHandler), func() time.Time { return now })
	d.waiting = make(chan struct{})
	for i := range n {
		w.done(i, "one", "a", "b")
	}
	var handled atomic.Int32
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := w.gate.Handle(t.Context(), event.New(event.TypeDateChanged, "//test", "", now, changed(day+backfill.Date(i)))); err != nil {
				t.Error(err)
			}
			handled.Add(1)
		})
	}
	// The first query holds while the others gather; each of the next two lets all go that came before it.
	for begun := false; !begun; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		begun = len(d.asked) > 0
		d.mu.Unlock()
	}
	close(d.waiting)
	wg.Wait()
	asked := 0
	for _, dates := range d.asked {
		asked += len(dates)
	}
	if handled.Load() != n || asked != n || len(d.asked) > n/2 {
		t.Errorf("%d dates in %d queries for %d", asked, len(d.asked), n)
	}
	if len(w.sent) != n {
		t.Errorf("%d triggers: %v", len(w.sent), w.sent)
	}
}
