// Package membus is the in-process bus. It is at least once on purpose: a Chaos can make it duplicate,
// delay, reorder and redeliver under a seed. With a Log it is durable; without one, events live as long as
// the process.
package membus

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
)

var (
	_ bus.Publisher  = (*Bus)(nil)
	_ bus.Subscriber = (*Bus)(nil)
)

// Log keeps published events until every subscription has acknowledged them.
type Log interface {
	// Append returns a number for the events once all are durable.
	Append(ctx context.Context, topic string, events []*event.Event) (int64, error)
	// Forget drops the events of a number; it need not be durable at once, as a late redelivery does no harm.
	Forget(number int64)
	// Bury keeps an event as a dead letter of its topic, with the reason.
	Bury(ctx context.Context, topic, subscription, reason string, e *event.Event) error
	// Pending calls f for everything appended and not forgotten, oldest first.
	Pending(ctx context.Context, f func(number int64, topic string, events []*event.Event)) error
}

// Options configures a bus.
type Options struct {
	Subscriptions []bus.Subscription
	Log           Log // nil: not durable
	Chaos         *Chaos
	Logger        *slog.Logger
	// Backoff is the wait before the n-th redelivery; nil means 20 ms doubling up to 10 s.
	Backoff func(attempt int) time.Duration
}

// Bus is the in-process bus.
type Bus struct {
	opts   Options
	byName map[string]*queue
	topics map[string][]*queue

	mu   sync.Mutex
	dead map[string][]Letter
}

// Letter is a dead letter.
type Letter struct {
	Event  *event.Event
	Reason string
}

// delivery is one event on its way to one subscription.
type delivery struct {
	e       *event.Event
	topic   string
	attempt int
	entry   *entry
}

// entry is what was published together, with the number of deliveries that are still to be acknowledged.
type entry struct {
	mu      sync.Mutex
	number  int64
	waiting int
}

// New makes a bus with its subscriptions and hands out what the log still holds.
func New(ctx context.Context, o Options) (*Bus, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Backoff == nil {
		o.Backoff = func(n int) time.Duration { return min(10*time.Second, 20*time.Millisecond<<min(n, 20)) }
	}
	b := &Bus{opts: o, byName: map[string]*queue{}, topics: map[string][]*queue{}, dead: map[string][]Letter{}}
	for _, s := range o.Subscriptions {
		q := newQueue()
		b.byName[s.Name()] = q
		b.topics[s.Topic] = append(b.topics[s.Topic], q)
	}
	if o.Log != nil {
		err := o.Log.Pending(ctx, func(n int64, topic string, events []*event.Event) { b.fanOut(topic, events, n) })
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Publish implements bus.Publisher.
func (b *Bus) Publish(ctx context.Context, topic string, events ...*event.Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(b.topics[topic]) == 0 || len(events) == 0 {
		return nil
	}
	var number int64
	if b.opts.Log != nil {
		var err error
		if number, err = b.opts.Log.Append(ctx, topic, events); err != nil {
			return err
		}
	}
	b.fanOut(topic, events, number)
	return nil
}

func (b *Bus) fanOut(topic string, events []*event.Event, number int64) {
	queues := b.topics[topic]
	if len(queues) == 0 {
		if b.opts.Log != nil {
			b.opts.Log.Forget(number)
		}
		return
	}
	en := &entry{number: number, waiting: len(queues) * len(events)}
	for _, e := range events {
		for _, q := range queues {
			d := &delivery{e: e, topic: topic, attempt: 1, entry: en}
			if !b.opts.Chaos.scatter(q, d) {
				q.push(d)
			}
		}
	}
}

// Receive implements bus.Subscriber.
func (b *Bus) Receive(ctx context.Context, sub bus.Subscription, h bus.Handler) error {
	q := b.byName[sub.Name()]
	if q == nil {
		return fault.New(fault.NotFound, "no subscription %q: declare it when the bus is made", sub.Name())
	}
	var wg sync.WaitGroup
	for range sub.Workers() {
		wg.Go(func() {
			for {
				d, ok := q.pop(ctx)
				if !ok {
					return
				}
				b.deliver(ctx, sub, q, d, h)
			}
		})
	}
	wg.Wait()
	return nil
}

func (b *Bus) deliver(ctx context.Context, sub bus.Subscription, q *queue, d *delivery, h bus.Handler) {
	err := h(ctx, d.e)
	switch {
	case err == nil && b.opts.Chaos.forgetAck():
		q.push(&delivery{d.e, d.topic, d.attempt, d.entry})
	case err == nil:
		b.ack(d)
	case ctx.Err() != nil:
		q.push(d) // stopping: it keeps its place and its count
	case fault.Is(err, fault.Invalid) || d.attempt >= bus.MaxAttempts:
		b.bury(ctx, sub, q, d, err)
	default:
		b.opts.Logger.WarnContext(ctx, "event will be delivered again", "subscription", sub.Name(),
			"event_id", d.e.ID, "event_type", d.e.Type, "delivery", d.attempt, "error", err)
		wait := b.opts.Backoff(d.attempt)
		d.attempt++
		time.AfterFunc(wait, func() { q.push(d) })
	}
}

func (b *Bus) ack(d *delivery) {
	d.entry.mu.Lock()
	d.entry.waiting--
	last := d.entry.waiting == 0
	d.entry.mu.Unlock()
	if last && b.opts.Log != nil {
		b.opts.Log.Forget(d.entry.number)
	}
}

func (b *Bus) bury(ctx context.Context, sub bus.Subscription, q *queue, d *delivery, reason error) {
	b.opts.Logger.ErrorContext(ctx, "event is a dead letter", "subscription", sub.Name(),
		"event_id", d.e.ID, "event_type", d.e.Type, "deliveries", d.attempt, "error", reason)
	if b.opts.Log != nil {
		if err := b.opts.Log.Bury(ctx, d.topic, sub.Name(), reason.Error(), d.e); err != nil {
			time.AfterFunc(b.opts.Backoff(d.attempt), func() { q.push(d) })
			return
		}
	}
	b.mu.Lock()
	b.dead[bus.Dead(d.topic)] = append(b.dead[bus.Dead(d.topic)], Letter{d.e, reason.Error()})
	b.mu.Unlock()
	b.ack(d)
}

// DeadLetters lists the events that ended on a topic's dead-letter topic since the process began.
func (b *Bus) DeadLetters(topic string) []Letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.dead[bus.Dead(topic)])
}

// Idle says that no event waits for a handler.
func (b *Bus) Idle() bool {
	for _, q := range b.byName {
		q.mu.Lock()
		n := len(q.items) - q.head
		q.mu.Unlock()
		if n > 0 {
			return false
		}
	}
	return true
}
