// Package bustest holds every bus to the comments of package bus.
package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// Bus is a bus under test.
type Bus interface {
	bus.Publisher
	bus.Subscriber
}

// Options says how a driver is tested.
type Options struct {
	// New makes a bus with the subscriptions, apart from those of all other subtests.
	New func(t *testing.T, subs ...bus.Subscription) Bus
	// Dead lists the dead letters of a topic so far, with the reason of each.
	Dead func(t *testing.T, b Bus, topic string) []Letter
	// Patience is how long the slowest redelivery may take.
	Patience time.Duration
}

// Letter is a dead letter.
type Letter struct {
	ID     string
	Reason string
}

const topic = event.TopicCompletions

var (
	one = bus.Subscription{Consumer: "one", Topic: topic}
	two = bus.Subscription{Consumer: "two", Topic: topic}
)

// Run runs the suite.
func Run(t *testing.T, o Options) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Options){
		"every subscription gets every event":         everySubscription,
		"events survive the way":                      survives,
		"raw events survive the way":                  raw,
		"an error is delivered again":                 again,
		"a crash between store and publish":           crash,
		"invalid is a dead letter at once":            invalid,
		"what was not acknowledged comes again":       interrupted,
		"receivers share a subscription":              shared,
		"handlers are bounded":                        bounded,
		"receive waits for its handlers":              waits,
		"a topic without subscriptions forgets":       nobody,
		"publishing stops with its context":           cancelled,
		"a thousand events at once":                   thousand,
		"events of a megabyte":                        large,
		"a subscription that is not there is refused": unknown,
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			test(t, o)
		})
	}
}

func completion(i int) *event.Event {
	m := &pb.ProcessorCompleted{BackfillId: "b", Date: "2024-01-01", Phase: "one", Processor: fmt.Sprint("p", i), Status: "succeeded"}
	e := event.New(event.TypeCompleted, "//bustest", "b/2024-01-01/one", time.Unix(1700000000, 5000).UTC(), m, fmt.Sprint(i))
	e.Trace = event.Traceparent("b", "2024-01-01", fmt.Sprint(i))
	return e
}

// receiver runs a handler on a subscription until the test ends.
type receiver struct {
	mu   sync.Mutex
	got  []*event.Event
	stop func()
}

func receive(t *testing.T, b Bus, sub bus.Subscription, h bus.Handler) *receiver {
	t.Helper()
	r := &receiver{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- b.Receive(ctx, sub, func(ctx context.Context, e *event.Event) error {
			r.mu.Lock()
			r.got = append(r.got, e)
			r.mu.Unlock()
			if h == nil {
				return nil
			}
			return h(ctx, e)
		})
	}()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Receive of %s: %v", sub.Name(), err)
			}
		})
	}
	t.Cleanup(r.stop)
	return r
}

func (r *receiver) events() []*event.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// distinct counts different events.
func (r *receiver) distinct() int {
	ids := map[string]bool{}
	for _, e := range r.events() {
		ids[e.ID] = true
	}
	return len(ids)
}

func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

func publish(t *testing.T, b Bus, topic string, events ...*event.Event) {
	t.Helper()
	if err := b.Publish(t.Context(), topic, events...); err != nil {
		t.Fatal(err)
	}
}

func everySubscription(t *testing.T, o Options) {
	b := o.New(t, one, two)
	publish(t, b, topic, completion(1), completion(2)) // before anybody receives
	r1, r2 := receive(t, b, one, nil), receive(t, b, two, nil)
	publish(t, b, topic, completion(3))
	within(t, o.Patience, "three events on both", func() bool { return r1.distinct() == 3 && r2.distinct() == 3 })
}

func survives(t *testing.T, o Options) {
	b := o.New(t, one)
	want := completion(1)
	publish(t, b, topic, want)
	r := receive(t, b, one, nil)
	within(t, o.Patience, "the event", func() bool { return r.distinct() == 1 })
	got := r.events()[0]
	if got.ID != want.ID || got.Type != want.Type || got.Source != want.Source || got.Subject != want.Subject ||
		!got.Time.Equal(want.Time) || got.Trace != want.Trace || !proto.Equal(got.Data, want.Data) || got.Err() != nil {
		t.Errorf("%+v became %+v", want, got)
	}
}

// raw is another system's message, on a topic that an adapter reads.
func raw(t *testing.T, o Options) {
	sub := bus.Subscription{Consumer: "one", Topic: "their-topic"}
	b := o.New(t, sub)
	body := `{"processor_name":"X","status":"success"}`
	publish(t, b, sub.Topic, &event.Event{ID: "theirs", Source: "//them", Time: time.Unix(1700000000, 0).UTC(), Raw: []byte(body)})
	r := receive(t, b, sub, nil)
	within(t, o.Patience, "the event", func() bool { return r.distinct() == 1 })
	if got := r.events()[0]; string(got.Raw) != body || got.Data != nil || got.ID == "" {
		t.Errorf("%+v", got)
	}
}

func again(t *testing.T, o Options) {
	b := o.New(t, one)
	publish(t, b, topic, completion(1))
	var tries atomic.Int32
	r := receive(t, b, one, func(context.Context, *event.Event) error {
		if tries.Add(1) < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	within(t, o.Patience, "the third delivery", func() bool { return tries.Load() >= 3 })
	if r.distinct() != 1 {
		t.Errorf("%d events", r.distinct())
	}
	if dead := o.Dead(t, b, topic); len(dead) != 0 {
		t.Errorf("dead letters: %v", dead)
	}
}

// A handler that stored its effect and failed to publish what follows is handed the event again, and makes up for it;
// what follows has the same id each time.
func crash(t *testing.T, o Options) {
	next := bus.Subscription{Consumer: "next", Topic: event.TopicPhaseCompletions}
	b := o.New(t, one, next)
	var stored atomic.Int32
	receive(t, b, one, func(ctx context.Context, e *event.Event) error {
		if stored.Add(1) == 1 {
			return fault.New(fault.Unavailable, "it crashed")
		}
		m := &pb.PhaseProgressed{BackfillId: "b", Date: "2024-01-01", Phase: "one"}
		return b.Publish(ctx, event.TopicPhaseCompletions, event.New(event.TypePhaseDone, "//bustest", "b", e.Time, m, e.ID))
	})
	follows := receive(t, b, next, func(context.Context, *event.Event) error { return nil })
	publish(t, b, topic, completion(1))
	within(t, o.Patience, "what follows", func() bool { return follows.distinct() == 1 })
	if stored.Load() < 2 {
		t.Errorf("delivered %d times", stored.Load())
	}
}

func invalid(t *testing.T, o Options) {
	b := o.New(t, one)
	bad, good := completion(1), completion(2)
	publish(t, b, topic, bad, good)
	var tries atomic.Int32
	receive(t, b, one, func(_ context.Context, e *event.Event) error {
		if e.ID == bad.ID {
			tries.Add(1)
			return fault.New(fault.Invalid, "it makes no sense")
		}
		return nil
	})
	within(t, o.Patience, "the dead letter", func() bool { return len(o.Dead(t, b, topic)) > 0 })
	dead := o.Dead(t, b, topic)
	if dead[0].ID != bad.ID || !strings.Contains(dead[0].Reason, "it makes no sense") || len(dead) != 1 || tries.Load() != 1 {
		t.Errorf("after %d tries: %v", tries.Load(), dead)
	}
}

func interrupted(t *testing.T, o Options) {
	b := o.New(t, one)
	publish(t, b, topic, completion(1))
	started := make(chan struct{})
	var once sync.Once
	first := receive(t, b, one, func(ctx context.Context, _ *event.Event) error {
		once.Do(func() { close(started) })
		<-ctx.Done()
		return ctx.Err()
	})
	<-started
	first.stop()
	r := receive(t, b, one, nil)
	within(t, o.Patience, "the event comes again", func() bool { return r.distinct() == 1 })
}

func shared(t *testing.T, o Options) {
	b := o.New(t, one)
	a, c := receive(t, b, one, nil), receive(t, b, one, nil)
	for i := range 100 {
		publish(t, b, topic, completion(i))
	}
	within(t, o.Patience, "all events between them", func() bool {
		ids := map[string]bool{}
		for _, e := range append(a.events(), c.events()...) {
			ids[e.ID] = true
		}
		return len(ids) == 100
	})
}

func bounded(t *testing.T, o Options) {
	sub := one
	sub.MaxInFlight = 3
	b := o.New(t, sub)
	var now, most, total atomic.Int32
	receive(t, b, sub, func(context.Context, *event.Event) error {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		now.Add(-1)
		total.Add(1)
		return nil
	})
	for i := range 30 {
		publish(t, b, topic, completion(i))
	}
	within(t, o.Patience, "all events", func() bool { return total.Load() >= 30 })
	if most.Load() > 3 {
		t.Errorf("%d handlers ran at once, not 3", most.Load())
	}
}

func waits(t *testing.T, o Options) {
	b := o.New(t, one)
	publish(t, b, topic, completion(1))
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var ended atomic.Bool
	r := receive(t, b, one, func(context.Context, *event.Event) error {
		once.Do(func() { close(started) })
		<-release
		ended.Store(true)
		return nil
	})
	<-started
	go func() {
		time.Sleep(20 * time.Millisecond)
		close(release)
	}()
	r.stop()
	if !ended.Load() {
		t.Error("Receive returned before its handler")
	}
}

func nobody(t *testing.T, o Options) {
	b := o.New(t, one)
	publish(t, b, event.TopicEvents, completion(1))
	publish(t, b, topic)
}

func cancelled(t *testing.T, o Options) {
	b := o.New(t, one)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Publish(ctx, topic, completion(1)); err == nil {
		t.Error("published with a context that had ended")
	}
}

func thousand(t *testing.T, o Options) {
	b := o.New(t, one)
	r := receive(t, b, one, nil)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			var events []*event.Event
			for j := range 100 {
				events = append(events, completion(i*100+j))
			}
			if err := b.Publish(t.Context(), topic, events...); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	within(t, o.Patience, "a thousand events", func() bool { return r.distinct() == 1000 })
}

func large(t *testing.T, o Options) {
	b := o.New(t, one)
	e := completion(1)
	m := &pb.ProcessorCompleted{BackfillId: "b", Message: strings.Repeat("x", 1<<20)}
	e.Data = m
	publish(t, b, topic, e)
	r := receive(t, b, one, nil)
	within(t, o.Patience, "the event", func() bool { return r.distinct() == 1 })
	if got := r.events()[0]; !proto.Equal(got.Data, m) {
		t.Error("the payload was changed")
	}
}

func unknown(t *testing.T, o Options) {
	b := o.New(t, one)
	ctx, cancel := context.WithTimeout(t.Context(), o.Patience)
	defer cancel()
	err := b.Receive(ctx, two, func(context.Context, *event.Event) error { return nil })
	if !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), two.Name()) {
		t.Errorf("got %v", err)
	}
}
