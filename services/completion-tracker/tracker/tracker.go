// Package tracker records what processors report. It is the only writer of outcomes: it adds the outcome
// to the date's facts, reads the date back, and tells the rest of the system what that amounts to.
package tracker

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	"sluice.dev/pkg/report"
	"sluice.dev/pkg/state"
	"sluice.dev/pkg/telemetry"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Name is the consumer's name in subscriptions and the source of its events.
const Name = "completion-tracker"

// Tracker handles completions. It holds no state of its own; what it remembers only saves reads and writes.
type Tracker struct {
	store   state.Store
	scopes  *state.Scopes
	recent  *state.Recent
	owners  owners
	pub     bus.Publisher
	metrics *telemetry.Metrics
	log     *slog.Logger
	now     func() time.Time
	// Adapters reads another system's messages by topic.
	adapters map[string]Adapter
	known    map[string]bool // pipelines
}

// New makes a tracker. The pipelines say which topics are read through adapters.
func New(store state.Store, pub bus.Publisher, pipelines map[string]*backfill.Pipeline, metrics *telemetry.Metrics, log *slog.Logger, now func() time.Time) *Tracker {
	known := map[string]bool{}
	for name := range pipelines {
		known[name] = true
	}
	return &Tracker{
		known: known, store: store, scopes: state.NewScopes(store, 10*time.Second), recent: state.NewRecent(), pub: pub, metrics: metrics, log: log, now: now,
		adapters: Adapters(pipelines),
	}
}

// Topics lists what the tracker subscribes to.
func (t *Tracker) Topics() []string {
	out := []string{event.TopicCompletions}
	for topic := range t.adapters {
		out = append(out, topic)
	}
	return out
}

// Handle returns the handler for one of the topics.
func (t *Tracker) Handle(topic string) bus.Handler {
	return func(ctx context.Context, e *event.Event) error {
		if a, ok := t.adapters[topic]; ok {
			m, err := a.Read(e.Raw)
			if err != nil {
				return err
			}
			return t.record(ctx, e, m)
		}
		if err := e.Err(); err != nil {
			return err
		}
		m, ok := e.Data.(*pb.ProcessorCompleted)
		if !ok {
			return fault.New(fault.Invalid, "event %s of type %s is no completion", e.ID, e.Type)
		}
		return t.record(ctx, e, m)
	}
}

// target is what a completion is about, found and checked.
type target struct {
	scope *backfill.Scope
	date  backfill.Date
	phase *backfill.Phase
	proc  *backfill.Processor
}

func (t *Tracker) record(ctx context.Context, e *event.Event, m *pb.ProcessorCompleted) error {
	if err := Check(m); err != nil {
		return err
	}
	at, err := t.find(ctx, m)
	if fault.Is(err, fault.NotFound) {
		return t.unmatched(ctx, e, m, err)
	}
	if err != nil {
		return err
	}
	rec, fact, err := t.add(ctx, e, m, at)
	if fault.Is(err, fault.NotFound) {
		return t.unmatched(ctx, e, m, err)
	}
	if err != nil {
		return err
	}
	return t.tell(ctx, at, rec, fact)
}

// add writes the outcome, and with it the mark of a phase that it is known to complete.
func (t *Tracker) add(ctx context.Context, e *event.Event, m *pb.ProcessorCompleted, at target) (backfill.Record, backfill.Fact, error) {
	known, remembered := t.recent.Get(at.scope, at.date)
	attempt := int(m.GetAttempt())
	if attempt == 0 {
		if !remembered || stale(&known, at) {
			var err error
			if known, err = t.store.Date(ctx, at.scope.ID, at.date); err != nil {
				return known, backfill.Fact{}, err
			}
			remembered = true
		}
		attempt = newest(&known, at, e.ID)
	}
	fact := t.fact(e, m, at, attempt)
	rec, err := t.merge(ctx, at, &known, remembered, fact)
	if err != nil || m.GetAttempt() != 0 || fact.Kind == backfill.Succeeded || fact.Kind == backfill.ReportedSkip {
		return rec, fact, err
	}
	// What was remembered may have been behind: when a newer attempt was under way already as this was told, it is
	// that which failed.
	run := rec.Run(at.scope.ID, at.phase, at.proc)
	if _, again := known.Told(at.phase.ID, at.proc.Name, e.ID); !again && run.State == backfill.RunInFlight && run.Attempt > attempt && run.Since.Before(fact.At) {
		fact = t.fact(e, m, at, run.Attempt)
		rec, err = t.merge(ctx, at, &rec, true, fact)
	}
	return rec, fact, err
}

// stale says that the newest attempt cannot be told from what is remembered: it was over then, and what is told of is
// more likely one that began since.
func stale(known *backfill.Record, at target) bool {
	switch known.Run(at.scope.ID, at.phase, at.proc).State {
	case backfill.RunRetrying, backfill.RunExhausted:
		return true
	default:
		return false
	}
}

// merge adds an outcome to what is known of a date.
func (t *Tracker) merge(ctx context.Context, at target, known *backfill.Record, remembered bool, fact backfill.Fact) (backfill.Record, error) {
	wake := time.Time{}
	if fact.Kind == backfill.Failed || fact.Kind == backfill.Partial {
		wake = fact.At // the dispatcher looks then, and again when the retry is due
	}
	facts := []backfill.Fact{fact}
	if remembered {
		then := known.Add(fact)
		if mark := complete(at.phase, fact); at.scope.Tally(&then, at.phase).Complete() && !known.Has(mark.Key) {
			facts = append(facts, mark)
		}
	}
	rec, err := t.store.Merge(ctx, at.scope.ID, at.date, wake, facts...)
	if err == nil {
		t.recent.Saw(at.scope, &rec)
	}
	return rec, err
}

// complete is the mark of a phase at N/N.
func complete(ph *backfill.Phase, last backfill.Fact) backfill.Fact {
	return backfill.Fact{Key: backfill.Key{Phase: ph.ID, Kind: backfill.Complete}, Value: backfill.Value{At: last.At}}
}

// find resolves the names in a completion. NotFound says that it matches nothing that Sluice runs.
func (t *Tracker) find(ctx context.Context, m *pb.ProcessorCompleted) (target, error) {
	date, err := backfill.ParseDate(m.GetDate())
	if err != nil {
		return target{}, fault.New(fault.Invalid, "date: %w", err)
	}
	scope, err := t.scope(ctx, m, date)
	if err != nil {
		return target{}, err
	}
	i, ours := scope.Dates.Index(date)
	if !ours {
		return target{}, fault.New(fault.NotFound, "backfill %s has no date %s", scope.ID, date)
	}
	ph, ok := scope.Pipeline.Phase(m.GetPhase())
	if !ok || !scope.Selected(ph.ID) || !ph.AppliesTo(scope.Dates.At(i).Season) {
		return target{}, fault.New(fault.NotFound, "backfill %s runs no phase %q on %s", scope.ID, m.GetPhase(), date)
	}
	proc, ok := ph.Processor(m.GetProcessor())
	if !ok {
		return target{}, fault.New(fault.NotFound, "phase %s has no processor %q", ph.ID, m.GetProcessor())
	}
	return target{scope, date, ph, proc}, nil
}

// newest is the attempt that a completion without a number belongs to.
func newest(rec *backfill.Record, at target, eventID string) int {
	if attempt, told := rec.Told(at.phase.ID, at.proc.Name, eventID); told {
		return attempt // delivered again
	}
	run := rec.Run(at.scope.ID, at.phase, at.proc)
	if run.State == backfill.RunRetrying || run.State == backfill.RunExhausted {
		return run.Attempt - 1 // late news of the attempt that ended
	}
	return max(1, run.Attempt)
}

// maxMessage bounds what is kept of a processor's message, in bytes: a date's document may have 1 MiB for all of its
// processors' attempts.
const maxMessage = 2000

func clip(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + " […]"
}

func (t *Tracker) fact(e *event.Event, m *pb.ProcessorCompleted, at target, attempt int) backfill.Fact {
	kind := map[string]backfill.Kind{
		"succeeded": backfill.Succeeded, "failed": backfill.Failed, "partial": backfill.Partial, "skipped": backfill.ReportedSkip,
	}[m.GetStatus()]
	if kind == backfill.Failed && m.Retryable != nil && !m.GetRetryable() {
		kind = backfill.Rejected
	}
	v := backfill.Value{
		At: e.Time, Message: clip(m.GetMessage()), Records: m.GetRecords(), BytesBilled: m.GetBytesBilled(), CorrelationID: m.GetCorrelationId(),
	}
	if v.At.IsZero() {
		v.At = t.now()
	}
	if m.GetAttempt() == 0 {
		v.EventID = e.ID
	}
	if m.GetStartedAt() != nil {
		v.StartedAt = m.GetStartedAt().AsTime()
	}
	if m.GetFinishedAt() != nil {
		v.FinishedAt = m.GetFinishedAt().AsTime()
	}
	return backfill.Fact{
		Key: backfill.Key{Phase: at.phase.ID, Processor: at.proc.Name, Attempt: attempt, Kind: kind}, Value: v,
	}
}

// tell publishes what follows from the record as it now stands. All of it is derived again when the
// completion is delivered again, and has the same ids then.
func (t *Tracker) tell(ctx context.Context, at target, rec backfill.Record, fact backfill.Fact) error {
	t.metrics.Count(ctx, telemetry.Completions, 1, "pipeline", at.scope.Pipeline.Name, "phase", at.phase.ID, "status", string(fact.Kind))
	tally := at.scope.Tally(&rec, at.phase)
	typ := event.TypeProgressed
	if tally.Complete() {
		typ = event.TypePhaseDone
		if done := complete(at.phase, fact); !rec.Has(done.Key) {
			var err error
			if rec, err = t.store.Merge(ctx, at.scope.ID, at.date, time.Time{}, done); err != nil {
				return err
			}
			t.recent.Saw(at.scope, &rec)
		}
	}
	ref := backfill.Ref{Phase: at.phase.ID, Processor: at.proc.Name}
	run := rec.Run(at.scope.ID, at.phase, at.proc)
	// A success ends every attempt. What was remembered may have been behind when the attempt was chosen, and the
	// dispatcher waits for news of the newest.
	ended := fact.Attempt
	for run.State.Done() && rec.Has(backfill.Key{Phase: at.phase.ID, Processor: at.proc.Name, Attempt: ended + 1, Kind: backfill.Dispatched}) {
		ended++
	}
	p := &pb.PhaseProgressed{
		BackfillId: at.scope.ID, Pipeline: at.scope.Pipeline.Name, Date: at.date.String(), Phase: at.phase.ID, Processor: at.proc.Name,
		Attempt: int32(ended), Status: string(fact.Kind), Tally: Wire(tally), Facts: int32(rec.Len()),
		Unblocks: run.State.Done() && at.scope.Pipeline.Needed(ref), At: timestamppb.New(fact.At),
		DurationSeconds: took(&rec, fact).Seconds(), BytesBilled: fact.BytesBilled,
	}
	subject := event.Subject(p.GetBackfillId(), p.GetDate(), p.GetPhase())
	id := string(fact.Kind) + strconv.Itoa(fact.Attempt) + p.GetProcessor()
	if err := t.pub.Publish(ctx, event.TopicPhaseCompletions, event.New(typ, Name, subject, fact.At, p, id)); err != nil {
		return err
	}
	return t.pub.Publish(ctx, event.TopicEvents, t.journal(at, run, tally, fact, took(&rec, fact))...)
}

// took is how long an attempt took: as its processor says, else since it was dispatched.
func took(rec *backfill.Record, fact backfill.Fact) time.Duration {
	if !fact.StartedAt.IsZero() && !fact.FinishedAt.IsZero() {
		return max(0, fact.FinishedAt.Sub(fact.StartedAt))
	}
	k := fact.Key
	k.Kind = backfill.Dispatched
	if v, ok := rec.Get(k); ok {
		return max(0, fact.At.Sub(v.At))
	}
	return 0
}

func (t *Tracker) journal(at target, run backfill.Run, tally backfill.Tally, fact backfill.Fact, took time.Duration) []*event.Event {
	line := func(kind, message string) *event.Event {
		e := &pb.BackfillEvent{
			BackfillId: at.scope.ID, Pipeline: at.scope.Pipeline.Name, Kind: kind, Date: at.date.String(), Phase: at.phase.ID,
			Processor: at.proc.Name, Attempt: int32(fact.Attempt), Message: message,
			Records: fact.Records, BytesBilled: fact.BytesBilled, DurationSeconds: took.Seconds(),
		}
		return event.Journal(Name, fact.At, e)
	}
	first := line(string(fact.Kind), fact.Message)
	if e, ok := first.Data.(*pb.BackfillEvent); ok && fact.Kind == backfill.Partial && at.proc.AcceptPartial {
		e.Data = report.Accepted
	}
	out := []*event.Event{first}
	if run.State == backfill.RunExhausted {
		t.metrics.Count(context.Background(), telemetry.Exhausted, 1, "pipeline", at.scope.Pipeline.Name, "phase", at.phase.ID, "processor", at.proc.Name)
		t.log.Error("processor exhausted", "backfill_id", at.scope.ID, "date", at.date.String(), "phase", at.phase.ID,
			"processor", at.proc.Name, "attempt", fact.Attempt, "error", run.LastError)
		out = append(out, line("exhausted", run.LastError))
	}
	if tally.Complete() {
		done := &pb.BackfillEvent{
			BackfillId: at.scope.ID, Pipeline: at.scope.Pipeline.Name, Kind: "phase_completed", Date: at.date.String(), Phase: at.phase.ID,
		}
		out = append(out, event.Journal(Name, fact.At, done))
	}
	return out
}

// unmatched journals a completion that belongs to nothing. It never changes a gate.
func (t *Tracker) unmatched(ctx context.Context, e *event.Event, m *pb.ProcessorCompleted, why error) error {
	label := m.GetPipeline()
	if !t.known[label] {
		label = "unknown" // whatever a stranger writes is no label
	}
	t.metrics.Count(ctx, telemetry.Unmatched, 1, "pipeline", label)
	t.log.WarnContext(ctx, "completion matches nothing", "backfill_id", m.GetBackfillId(), "pipeline", m.GetPipeline(),
		"date", m.GetDate(), "phase", m.GetPhase(), "processor", m.GetProcessor(), "why", why.Error())
	return t.pub.Publish(ctx, event.TopicEvents, event.Journal(Name, t.now(), &pb.BackfillEvent{
		BackfillId: m.GetBackfillId(), Pipeline: m.GetPipeline(), Kind: "unmatched", Date: m.GetDate(), Phase: m.GetPhase(),
		Processor: m.GetProcessor(), Attempt: m.GetAttempt(), Message: why.Error(),
	}, e.ID))
}

// Check lists what is wrong with a completion by itself.
func Check(m *pb.ProcessorCompleted) error {
	var faults fault.List
	if m.GetBackfillId() == "" && m.GetPipeline() == "" {
		faults.Addf("pipeline is missing, and there is no backfill_id either")
	}
	for name, v := range map[string]string{"phase": m.GetPhase(), "processor": m.GetProcessor()} {
		if v == "" {
			faults.Addf("%s is missing", name)
		}
	}
	if _, err := backfill.ParseDate(m.GetDate()); err != nil {
		faults.Addf("date: %v", err)
	}
	switch m.GetStatus() {
	case "succeeded", "failed", "partial", "skipped":
	default:
		faults.Addf("status %q is none of succeeded, failed, partial and skipped", m.GetStatus())
	}
	if m.GetAttempt() < 0 {
		faults.Addf("attempt is %d: attempts count from 1", m.GetAttempt())
	}
	return faults.Err()
}

// Wire is a tally as a message.
func Wire(t backfill.Tally) *pb.Tally {
	n := func(i int) int32 { return int32(i) }
	return &pb.Tally{
		Total: n(t.Total), Succeeded: n(t.Succeeded), Skipped: n(t.Skipped), Waived: n(t.Waived),
		InFlight: n(t.InFlight), Retrying: n(t.Retrying), Exhausted: n(t.Exhausted), Pending: n(t.Pending),
	}
}
