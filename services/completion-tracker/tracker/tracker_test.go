package tracker_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/state/sqlitestate"
	"sluice.dev/pkg/telemetry"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/completion-tracker/tracker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)

const day = backfill.Date(19700)

// recorder is a publisher that keeps what it is given.
type recorder struct {
	mu   sync.Mutex
	sent map[string][]*event.Event
	fail bool
}

func (r *recorder) Publish(_ context.Context, topic string, events ...*event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail {
		return fault.New(fault.Unavailable, "the bus is down")
	}
	if r.sent == nil {
		r.sent = map[string][]*event.Event{}
	}
	r.sent[topic] = append(r.sent[topic], events...)
	return nil
}

func (r *recorder) last() *event.Event {
	if told := r.sent[event.TopicPhaseCompletions]; len(told) > 0 {
		return told[len(told)-1]
	}
	return nil
}

func (r *recorder) kinds() []string {
	var out []string
	for _, e := range r.sent[event.TopicEvents] {
		out = append(out, e.Data.(*pb.BackfillEvent).GetKind())
	}
	return out
}

// setup is a store with an active backfill of two processors on one date, and a tracker.
func setup(t *testing.T) (state.Store, *recorder, *tracker.Tracker) {
	t.Helper()
	s, err := sqlitestate.Open(t.Context(), filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	proc := func(name string) backfill.Processor {
		return backfill.Processor{Name: name, Timeout: time.Minute, Attempts: 2, Backoff: backfill.Backoff{Initial: time.Second, Max: time.Minute}}
	}
	p := &backfill.Pipeline{Name: "p", Phases: []backfill.Phase{{ID: "one", Processors: []backfill.Processor{proc("a"), proc("b")}}}}
	cal := backfill.NewCalendar([]backfill.Partition{{Date: day}})
	b := &backfill.Backfill{ID: "b", Version: "v", State: backfill.StateActive, Request: backfill.Request{ID: "b", Pipeline: "p"}, Calendar: cal, Dates: cal}
	for _, err := range []error{
		s.PutPipeline(t.Context(), "v", p), s.CreateDates(t.Context(), "b", []backfill.Record{backfill.NewRecord(day, "")}),
		s.Claim(t.Context(), "p", "b", []backfill.Date{day}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.CreateBackfill(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	pub := &recorder{}
	return s, pub, tracker.New(s, pub, nil, nil, slog.New(slog.DiscardHandler), func() time.Time { return now })
}

func report(t *testing.T, tr *tracker.Tracker, m *pb.ProcessorCompleted) error {
	t.Helper()
	e := event.New(event.TypeCompleted, "//test", "", now, m, m.GetStatus(), strconv.Itoa(int(m.GetAttempt())))
	return tr.Handle(event.TopicCompletions)(t.Context(), e)
}

func completed(processor, status string) *pb.ProcessorCompleted {
	return &pb.ProcessorCompleted{Pipeline: "p", Date: day.String(), Phase: "one", Processor: processor, Status: status}
}

func TestPhaseIsCompleteAtNofN(t *testing.T) {
	t.Parallel()
	s, pub, tr := setup(t)
	for i, processor := range []string{"a", "a", "a", "b", "b"} { // told again and again
		if err := report(t, tr, completed(processor, "succeeded")); err != nil {
			t.Fatal(err)
		}
		e := pub.last()
		m := e.Data.(*pb.PhaseProgressed)
		want, done := event.TypeProgressed, int32(1)
		if i > 2 {
			want, done = event.TypePhaseDone, 2
		}
		if e.Type != want || m.GetTally().GetSucceeded() != done || m.GetTally().GetTotal() != 2 {
			t.Errorf("after %d: %s %v", i+1, e.Type, m)
		}
	}
	r, err := s.Date(t.Context(), "b", day)
	if err != nil || r.Len() != 3 || !r.Has(backfill.Key{Phase: "one", Kind: backfill.Complete}) {
		t.Errorf("%+v, %v", r.Facts(), err)
	}
}

func TestFailuresRetryAndExhaust(t *testing.T) {
	t.Parallel()
	s, pub, tr := setup(t)
	if err := report(t, tr, completed("a", "failed")); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Date(t.Context(), "b", day); err != nil || !r.WakeAt.Equal(now) {
		t.Errorf("the dispatcher is not woken: %s, %v", r.WakeAt, err)
	}
	second := completed("a", "failed")
	second.Attempt, second.Message = 2, "again"
	if err := report(t, tr, second); err != nil {
		t.Fatal(err)
	}
	kinds := pub.kinds()
	if len(kinds) != 3 || kinds[0] != "failed" || kinds[2] != "exhausted" {
		t.Errorf("journal: %v", kinds)
	}
	// Late news without a number belongs to the attempt that ended; a success still counts.
	if err := report(t, tr, completed("a", "succeeded")); err != nil {
		t.Fatal(err)
	}
	if m := pub.last().Data.(*pb.PhaseProgressed); m.GetTally().GetSucceeded() != 1 || m.GetAttempt() != 2 {
		t.Errorf("%v", m)
	}
}

// The same message again, after another attempt was dispatched, is not about that attempt.
func TestAFailureToldAgainIsNotTheNextAttempts(t *testing.T) {
	t.Parallel()
	s, _, tr := setup(t)
	if err := report(t, tr, completed("a", "failed")); err != nil {
		t.Fatal(err)
	}
	again := backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "a", Attempt: 2, Kind: backfill.Dispatched}, Value: backfill.Value{At: now}}
	if _, err := s.Merge(t.Context(), "b", day, time.Time{}, again); err != nil {
		t.Fatal(err)
	}
	if err := report(t, tr, completed("a", "failed")); err != nil {
		t.Fatal(err)
	}
	r, err := s.Date(t.Context(), "b", day)
	if err != nil || r.Has(backfill.Key{Phase: "one", Processor: "a", Attempt: 2, Kind: backfill.Failed}) {
		t.Errorf("%+v, %v", r.Facts(), err)
	}
	other := event.New(event.TypeCompleted, "//test", "", now, completed("a", "failed"), "another message")
	if err := tr.Handle(event.TopicCompletions)(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if r, err = s.Date(t.Context(), "b", day); err != nil || !r.Has(backfill.Key{Phase: "one", Processor: "a", Attempt: 2, Kind: backfill.Failed}) {
		t.Errorf("news of the second attempt is lost: %+v, %v", r.Facts(), err)
	}
}

func TestNotRetryable(t *testing.T) {
	t.Parallel()
	_, pub, tr := setup(t)
	no := false
	m := completed("a", "failed")
	m.Retryable = &no
	if err := report(t, tr, m); err != nil {
		t.Fatal(err)
	}
	if kinds := pub.kinds(); len(kinds) != 2 || kinds[0] != "rejected" || kinds[1] != "exhausted" {
		t.Errorf("journal: %v", kinds)
	}
}

func TestUnmatchedChangesNothing(t *testing.T) {
	t.Parallel()
	s, pub, tr := setup(t)
	for name, change := range map[string]func(*pb.ProcessorCompleted){
		"a 22nd processor":  func(m *pb.ProcessorCompleted) { m.Processor = "stranger" },
		"another phase":     func(m *pb.ProcessorCompleted) { m.Phase = "two" },
		"another date":      func(m *pb.ProcessorCompleted) { m.Date = "2020-01-01" },
		"another pipeline":  func(m *pb.ProcessorCompleted) { m.Pipeline = "q" },
		"another backfill":  func(m *pb.ProcessorCompleted) { m.BackfillId = "c" },
		"a date not in it":  func(m *pb.ProcessorCompleted) { m.BackfillId, m.Date = "b", "2020-01-01" },
		"a phase not in it": func(m *pb.ProcessorCompleted) { m.BackfillId, m.Phase = "b", "two" },
	} {
		before := len(pub.kinds())
		m := completed("a", "succeeded")
		change(m)
		if err := report(t, tr, m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if kinds := pub.kinds(); len(kinds) != before+1 || kinds[before] != "unmatched" {
			t.Errorf("%s: journal %v", name, kinds)
		}
	}
	if r, err := s.Date(t.Context(), "b", day); err != nil || r.Len() != 0 || len(pub.sent[event.TopicPhaseCompletions]) != 0 {
		t.Errorf("%+v, %v", r.Facts(), err)
	}
}

func TestNothingIsAcknowledgedThatIsNotDurable(t *testing.T) {
	t.Parallel()
	s, pub, tr := setup(t)
	pub.fail = true
	if err := report(t, tr, completed("a", "succeeded")); !fault.Retryable(err) {
		t.Errorf("acknowledged although nothing was published: %v", err)
	}
	pub.fail = false
	if err := report(t, tr, completed("a", "succeeded")); err != nil || pub.last() == nil {
		t.Errorf("told again, nothing is published: %v", err)
	}
	_ = s.Close()
	if err := report(t, tr, completed("b", "succeeded")); !fault.Retryable(err) {
		t.Errorf("acknowledged although nothing was stored: %v", err)
	}
}

func TestMalformedIsInvalid(t *testing.T) {
	t.Parallel()
	_, _, tr := setup(t)
	bad := completed("", "great")
	bad.Attempt = -1
	err := report(t, tr, bad)
	if !fault.Is(err, fault.Invalid) || len(fault.Faults(err)) != 3 {
		t.Errorf("%v", err)
	}
	if err := tr.Handle(event.TopicCompletions)(t.Context(), &event.Event{ID: "x", Invalid: []string{"garbage"}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("%v", err)
	}
}

// What the tracker remembers of a date may be behind: the failure is the newest attempt's all the same, unless it
// was told before that attempt began.
func TestAMemoryThatIsBehind(t *testing.T) {
	t.Parallel()
	s, _, tr := setup(t)
	fact := func(attempt int, kind backfill.Kind, at time.Time) backfill.Fact {
		return backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "a", Attempt: attempt, Kind: kind}, Value: backfill.Value{At: at}}
	}
	merge := func(facts ...backfill.Fact) {
		t.Helper()
		if _, err := s.Merge(t.Context(), "b", day, time.Time{}, facts...); err != nil {
			t.Fatal(err)
		}
	}
	merge(fact(1, backfill.Dispatched, now))
	if err := report(t, tr, completed("b", "succeeded")); err != nil { // the date is remembered now
		t.Fatal(err)
	}
	merge(fact(1, backfill.Failed, now), fact(2, backfill.Dispatched, now.Add(time.Minute)))
	for told, want := range map[time.Duration]bool{30 * time.Second: false, 2 * time.Minute: true} {
		e := event.New(event.TypeCompleted, "//test", "", now.Add(told), completed("a", "failed"), told.String())
		if err := tr.Handle(event.TopicCompletions)(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if !want {
			continue
		}
		r, err := s.Date(t.Context(), "b", day)
		if failed, ok := r.Told("one", "a", e.ID); err != nil || !ok || !r.Has(fact(2, backfill.Failed, now).Key) {
			t.Errorf("told after %s: attempt %d, %v", told, failed, err)
		}
	}
}

// A success is told of the newest attempt, also when the tracker did not know that it was dispatched: its slot waits.
func TestASuccessEndsTheNewestAttempt(t *testing.T) {
	t.Parallel()
	s, pub, tr := setup(t)
	if err := report(t, tr, completed("a", "failed")); err != nil { // the date is remembered now
		t.Fatal(err)
	}
	again := backfill.Fact{Key: backfill.Key{Phase: "one", Processor: "a", Attempt: 2, Kind: backfill.Dispatched}, Value: backfill.Value{At: now}}
	if _, err := s.Merge(t.Context(), "b", day, time.Time{}, again); err != nil {
		t.Fatal(err)
	}
	if err := report(t, tr, completed("a", "succeeded")); err != nil {
		t.Fatal(err)
	}
	if m := pub.last().Data.(*pb.PhaseProgressed); m.GetAttempt() != 2 || m.GetTally().GetSucceeded() != 1 {
		t.Errorf("%v", m)
	}
}

// A completion without a backfill belongs to the one that owns the date, also right after it was another.
func TestTheNextOwner(t *testing.T) {
	t.Parallel()
	s, pub, tr := setup(t)
	for _, p := range []string{"a", "b"} {
		if err := report(t, tr, completed(p, "succeeded")); err != nil {
			t.Fatal(err)
		}
	}
	b, err := s.Backfill(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	next := *b
	next.ID = "next"
	if _, _, err := s.CreateBackfill(t.Context(), &next); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateDates(t.Context(), "next", []backfill.Record{backfill.NewRecord(day, "s")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Unclaim(t.Context(), b.Request.Pipeline, "b"); err != nil {
		t.Fatal(err)
	}
	if err := s.Claim(t.Context(), b.Request.Pipeline, "next", []backfill.Date{day}); err != nil {
		t.Fatal(err)
	}
	if err := report(t, tr, completed("a", "failed")); err != nil {
		t.Fatal(err)
	}
	if m := pub.last().Data.(*pb.PhaseProgressed); m.GetBackfillId() != "next" {
		t.Errorf("it was counted for %s", m.GetBackfillId())
	}
}

// A message of any length is recorded, shortened.
func TestLongMessagesAreShortened(t *testing.T) {
	t.Parallel()
	s, _, tr := setup(t)
	m := completed("a", "failed")
	m.Message = strings.Repeat("é", 2_000_000)
	if err := report(t, tr, m); err != nil {
		t.Fatal(err)
	}
	r, err := s.Date(t.Context(), "b", day)
	if err != nil || r.Len() != 1 {
		t.Fatalf("%d facts, %v", r.Len(), err)
	}
	if got := r.Facts()[0].Message; len(got) > 2100 || !utf8.ValidString(got) || !strings.HasPrefix(got, "éé") || !strings.HasSuffix(got, "[…]") {
		t.Errorf("%d bytes: %q", len(got), got[max(0, len(got)-20):])
	}
}

// What a stranger writes must not become a label: every new one would be a new time series.
func TestUnknownPipelinesAreOneSeries(t *testing.T) {
	t.Parallel()
	s, pub, _ := setup(t)
	sent, err := telemetry.Start(t.Context(), "test", true)
	if err != nil {
		t.Fatal(err)
	}
	tr := tracker.New(s, pub, map[string]*backfill.Pipeline{"p": {Name: "p"}}, sent.Metrics, slog.New(slog.DiscardHandler), func() time.Time { return now })
	for _, pipeline := range []string{"p", "x1", "x2"} {
		m := completed("nobody", "succeeded")
		m.Pipeline = pipeline
		if err := report(t, tr, m); err != nil {
			t.Fatal(err)
		}
	}
	w := httptest.NewRecorder()
	sent.Scrape.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{`sluice_unmatched_total{pipeline="p"} 1`, `sluice_unmatched_total{pipeline="unknown"} 2`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body.String())
		}
	}
}
