package membus_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/bustest"
	"sluice.dev/pkg/bus/membus"
	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quick(int) time.Duration { return time.Millisecond }

func dead(t *testing.T, b bustest.Bus, topic string) []bustest.Letter {
	t.Helper()
	var out []bustest.Letter
	for _, l := range b.(*membus.Bus).DeadLetters(topic) {
		out = append(out, bustest.Letter{ID: l.Event.ID, Reason: l.Reason})
	}
	return out
}

func TestInMemory(t *testing.T) {
	t.Parallel()
	bustest.Run(t, bustest.Options{Patience: 5 * time.Second, Dead: dead, New: func(t *testing.T, subs ...bus.Subscription) bustest.Bus {
		t.Helper()
		return open(t, "", nil, subs...)
	}})
}

func TestDurable(t *testing.T) {
	t.Parallel()
	bustest.Run(t, bustest.Options{Patience: 5 * time.Second, Dead: dead, New: func(t *testing.T, subs ...bus.Subscription) bustest.Bus {
		t.Helper()
		return open(t, filepath.Join(t.TempDir(), "bus.db"), nil, subs...)
	}})
}

func open(t *testing.T, path string, chaos *membus.Chaos, subs ...bus.Subscription) *membus.Bus {
	t.Helper()
	o := membus.Options{Subscriptions: subs, Backoff: quick, Chaos: chaos}
	if path != "" {
		log, err := membus.OpenLog(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := log.Close(); err != nil {
				t.Error(err)
			}
		})
		o.Log = log
	}
	b, err := membus.New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var sub = bus.Subscription{Consumer: "c", Topic: event.TopicCompletions}

func some(n string) *event.Event {
	return event.New(event.TypeCompleted, "//test", "s", time.Unix(1, 0), &pb.ProcessorCompleted{Processor: n}, n)
}

// drain receives until f says that it is enough.
func drain(t *testing.T, b *membus.Bus, f func(*event.Event) (enough bool, err error)) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	err := b.Receive(ctx, sub, func(_ context.Context, e *event.Event) error {
		enough, err := f(e)
		if enough {
			stop()
		}
		return err
	})
	if err != nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatal("not enough within 5 s", err)
	}
}

func TestWhatWasNotAcknowledgedSurvivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bus.db")
	log, err := membus.OpenLog(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := membus.New(t.Context(), membus.Options{Subscriptions: []bus.Subscription{sub}, Log: log, Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	raw := &event.Event{ID: "raw", Raw: []byte("garbage"), Invalid: []string{"it is garbage"}}
	if err := b.Publish(t.Context(), sub.Topic, some("a"), some("b"), raw); err != nil {
		t.Fatal(err)
	}
	drain(t, b, func(e *event.Event) (bool, error) { // a is acknowledged, but it shares a row with b
		if m, ok := e.Data.(*pb.ProcessorCompleted); ok && m.GetProcessor() == "a" {
			return true, nil
		}
		return false, context.Canceled
	})
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 10)
	drain(t, open(t, path, nil, sub), func(e *event.Event) (bool, error) {
		if e.ID == "raw" && (string(e.Raw) != "garbage" || e.Err() == nil) {
			t.Errorf("%+v", e)
		}
		got <- e.ID
		return len(got) >= 3, nil
	})
}

func TestAnEventThatNeverSucceedsIsADeadLetterAfterTenDeliveries(t *testing.T) {
	t.Parallel()
	b := open(t, "", nil, sub)
	if err := b.Publish(t.Context(), sub.Topic, some("a")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	var tries atomic.Int32
	received := make(chan error, 1)
	go func() {
		received <- b.Receive(ctx, sub, func(context.Context, *event.Event) error { tries.Add(1); return errors.New("never") })
	}()
	for len(b.DeadLetters(sub.Topic)) == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-received; err != nil {
		t.Fatal(err)
	}
	letters := b.DeadLetters(sub.Topic)
	if len(letters) != 1 || letters[0].Reason != "never" || tries.Load() != bus.MaxAttempts {
		t.Errorf("after %d deliveries: %+v", tries.Load(), letters)
	}
}

func TestChaosDuplicatesDelaysAndRedelivers(t *testing.T) {
	t.Parallel()
	chaos := membus.NewChaos(1)
	chaos.Duplicate, chaos.Delay, chaos.MaxDelay, chaos.Redeliver = 0.5, 0.5, 5*time.Millisecond, 0.3
	b := open(t, "", chaos, sub)
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"}
	for _, n := range names {
		if err := b.Publish(t.Context(), sub.Topic, some(n)); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	seen := make(chan string, 1000)
	first := map[string]bool{}
	inOrder, last := true, ""
	drainOne := func(e *event.Event) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		n := e.Data.(*pb.ProcessorCompleted).GetProcessor()
		seen <- n
		if !first[n] {
			inOrder, last = inOrder && n > last, n
		}
		first[n] = true
		return len(first) == len(names) && len(seen) > len(names), nil
	}
	drain(t, b, drainOne)
	if inOrder {
		t.Error("nothing was reordered")
	}
}
