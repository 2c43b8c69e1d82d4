// Package bus is how programs talk: topics that carry events to subscriptions, at least once.
package bus

import (
	"context"

	"sluice.dev/pkg/event"
)

// Publisher sends events.
type Publisher interface {
	// Publish returns nil once every event is durable: from then on each subscription of the topic will be
	// handed each event at least once, whatever happens to this process. When it returns an error, some of
	// the events may have been published; publishing again is safe, because consumers ignore what they
	// know. A topic without subscriptions takes events and forgets them. Events of one call, and calls one
	// after the other, may be delivered in any order. The events must not be changed afterwards.
	Publish(ctx context.Context, topic string, events ...*event.Event) error
}

// Handler consumes one event. Nil acknowledges it, and MUST be returned only when every effect is durable.
// An error has the event delivered again after a backoff, and after MaxAttempts moved to the topic's dead
// letters; an Invalid error (package fault) moves it there at once. The context ends when the subscriber
// stops. Handlers run concurrently, also for one event that is delivered twice.
type Handler func(ctx context.Context, e *event.Event) error

// Subscriber receives events.
type Subscriber interface {
	// Receive hands a subscription's events to the handler until ctx ends, then waits for running handlers
	// and returns nil. What was not acknowledged is delivered again to the next Receive. Several Receives
	// of one subscription share its events.
	Receive(ctx context.Context, sub Subscription, h Handler) error
}

// Subscription is one consumer's share of a topic.
type Subscription struct {
	Consumer string
	Topic    string
	// MaxInFlight bounds the handlers that run at once; 0 means 64.
	MaxInFlight int
}

// Name is the subscription's name, <consumer>.<topic>.
func (s Subscription) Name() string { return s.Consumer + "." + s.Topic }

// Workers is MaxInFlight with its default.
func (s Subscription) Workers() int {
	if s.MaxInFlight > 0 {
		return s.MaxInFlight
	}
	return 64
}

// MaxAttempts is how often an event is delivered before it is a dead letter.
const MaxAttempts = 10

// Dead is the topic that takes the dead letters of another.
func Dead(topic string) string { return topic + "-dead" }
