package gcpbus_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/bustest"
	"sluice.dev/pkg/bus/gcpbus"
	"sluice.dev/pkg/event"
)

var projects atomic.Int32

// open makes a bus in a project of its own, so that tests do not meet.
func open(t *testing.T) (*gcpbus.Bus, string) {
	t.Helper()
	if os.Getenv("PUBSUB_EMULATOR_HOST") == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("no Pub/Sub emulator: run the tests with make test")
		}
		t.Skip("no Pub/Sub emulator: install gcloud with its emulators and Java 17, and run make test")
	}
	project := fmt.Sprintf("sluice-test-%d-%d", os.Getpid(), projects.Add(1))
	b, err := gcpbus.Open(t.Context(), project, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, project
}

// letters receives the dead letters of a project's topics.
type letters struct {
	mu  sync.Mutex
	got map[string][]bustest.Letter
}

var held sync.Map // the bus under test to its *letters

func TestBus(t *testing.T) {
	t.Parallel()
	bustest.Run(t, bustest.Options{
		Patience: 30 * time.Second,
		New: func(t *testing.T, subs ...bus.Subscription) bustest.Bus {
			t.Helper()
			b, project := open(t)
			topics := []string{event.TopicCompletions, event.TopicEvents}
			if err := b.Create(t.Context(), gcpbus.Topology{}, topics, subs...); err != nil {
				t.Fatal(err)
			}
			held.Store(b, hold(t, project, subs))
			return b
		},
		Dead: dead,
	})
}

// dead lists the dead letters so far.
func dead(t *testing.T, b bustest.Bus, topic string) []bustest.Letter {
	t.Helper()
	l, _ := held.Load(b)
	all := l.(*letters)
	all.mu.Lock()
	defer all.mu.Unlock()
	return append([]bustest.Letter(nil), all.got[topic]...)
}

func hold(t *testing.T, project string, subs []bus.Subscription) *letters {
	t.Helper()
	l := &letters{got: map[string][]bustest.Letter{}}
	client, err := pubsub.NewClient(context.Background(), project)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	seen := map[string]bool{}
	for _, s := range subs {
		if seen[s.Topic] {
			continue
		}
		seen[s.Topic] = true
		wg.Go(func() {
			err := client.Subscriber(bus.Dead(s.Topic)+".hold").Receive(ctx, func(_ context.Context, m *pubsub.Message) {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.got[s.Topic] = append(l.got[s.Topic], bustest.Letter{ID: m.Attributes["ce-id"], Reason: m.Attributes["sluice-reason"]})
				m.Ack()
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait(); _ = client.Close() })
	return l
}
