// Package gcpbus is the bus on Google Cloud Pub/Sub: a publisher, a streaming-pull subscriber, and an HTTP
// handler for push subscriptions. Topics and subscriptions exist already; Create makes them for emulators.
package gcpbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cloud.google.com/go/pubsub/v2"
	pubsubapi "cloud.google.com/go/pubsub/v2/apiv1"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
)

var (
	_ bus.Publisher  = (*Bus)(nil)
	_ bus.Subscriber = (*Bus)(nil)
)

// Bus is Pub/Sub in one project.
type Bus struct {
	client *pubsub.Client
	log    *slog.Logger

	mu         sync.Mutex
	publishers map[string]*pubsub.Publisher

	published atomic.Int64
}

// After an outage work goes on within seconds. The client's own waits grow up to one and two minutes.
const longestWait = 3 * time.Second

var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestWait},
	MinConnectTimeout: 5 * time.Second,
}

func publishRetry() gax.Retryer {
	return gax.OnCodes([]codes.Code{
		codes.Aborted, codes.Canceled, codes.Internal, codes.ResourceExhausted, codes.Unknown, codes.Unavailable, codes.DeadlineExceeded,
	}, gax.Backoff{Initial: 100 * time.Millisecond, Max: longestWait, Multiplier: 2})
}

func pullRetry() gax.Retryer {
	return gax.OnCodes([]codes.Code{
		codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted, codes.Internal, codes.Unavailable,
	}, gax.Backoff{Initial: 100 * time.Millisecond, Max: longestWait, Multiplier: 2})
}

// Open connects to Pub/Sub, or to the emulator that PUBSUB_EMULATOR_HOST names.
func Open(ctx context.Context, project string, log *slog.Logger, options ...option.ClientOption) (*Bus, error) {
	options = append([]option.ClientOption{option.WithGRPCDialOption(grpc.WithConnectParams(reconnect))}, options...)
	client, err := pubsub.NewClientWithConfig(ctx, project, &pubsub.ClientConfig{
		TopicAdminCallOptions:        &pubsubapi.TopicAdminCallOptions{Publish: []gax.CallOption{gax.WithRetry(publishRetry)}},
		SubscriptionAdminCallOptions: &pubsubapi.SubscriptionAdminCallOptions{StreamingPull: []gax.CallOption{gax.WithRetry(pullRetry)}},
	}, options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to Pub/Sub: %w", err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Bus{client: client, log: log, publishers: map[string]*pubsub.Publisher{}}, nil
}

// Close sends what is waiting and disconnects.
func (b *Bus) Close() error {
	b.mu.Lock()
	for _, p := range b.publishers {
		p.Stop()
	}
	clear(b.publishers)
	b.mu.Unlock()
	if err := b.client.Close(); err != nil {
		return fmt.Errorf("disconnecting from Pub/Sub: %w", err)
	}
	return nil
}

// Published counts the messages since Open.
func (b *Bus) Published() int64 { return b.published.Load() }

// maxWaiting bounds the messages of a topic that wait to be sent; Publish blocks while it is reached.
const maxWaiting = 5000

func (b *Bus) publisher(topic string) *pubsub.Publisher {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.publishers[topic]
	if p == nil {
		p = b.client.Publisher(topic)
		p.PublishSettings.DelayThreshold = 5 * time.Millisecond
		p.PublishSettings.CountThreshold = 500
		p.PublishSettings.Timeout = 30 * time.Second
		p.PublishSettings.FlowControlSettings = pubsub.FlowControlSettings{
			MaxOutstandingMessages: maxWaiting, MaxOutstandingBytes: 64 << 20, LimitExceededBehavior: pubsub.FlowControlBlock,
		}
		b.publishers[topic] = p
	}
	return p
}

// Publish implements bus.Publisher.
func (b *Bus) Publish(ctx context.Context, topic string, events ...*event.Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p := b.publisher(topic)
	results := make([]*pubsub.PublishResult, 0, len(events))
	var errs []error
	for _, e := range events {
		m, err := encode(ctx, e)
		if err != nil {
			errs = append(errs, err)
			break
		}
		b.published.Add(1)
		results = append(results, p.Publish(ctx, m))
	}
	for _, r := range results {
		if _, err := r.Get(ctx); err != nil {
			errs = append(errs, wrap(err, "publishing to %s", topic))
		}
	}
	return errors.Join(errs...)
}

// leaseStep is by how much a message's lease is extended at a time: as long as its successor waits for what a
// process that was killed held. The client's default is 60 s.
const leaseStep = 15 * time.Second

// Receive implements bus.Subscriber. Leases of messages are extended while their handlers run.
func (b *Bus) Receive(ctx context.Context, sub bus.Subscription, h bus.Handler) error {
	s := b.client.Subscriber(sub.Name())
	s.ReceiveSettings.MaxOutstandingMessages = sub.Workers()
	s.ReceiveSettings.MaxOutstandingBytes = 256 << 20
	s.ReceiveSettings.NumGoroutines = 1
	s.ReceiveSettings.MaxExtension = 30 * time.Minute
	s.ReceiveSettings.MaxDurationPerAckExtension = leaseStep
	for {
		err := s.Receive(ctx, func(ctx context.Context, m *pubsub.Message) {
			if b.deliver(ctx, sub, m, h) {
				m.Ack()
			} else {
				m.Nack()
			}
		})
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end of the context is the end of receiving
		case status.Code(err) == codes.NotFound:
			return fault.New(fault.NotFound, "no subscription %s: create it: %w", sub.Name(), err)
		case err == nil:
			return nil
		}
		b.log.WarnContext(ctx, "subscription interrupted: it is resumed", "subscription", sub.Name(), "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// deliver hands a message to its handler and says whether it is done with.
func (b *Bus) deliver(ctx context.Context, sub bus.Subscription, m *pubsub.Message, h bus.Handler) bool {
	e := decode(ctx, sub.Topic, m)
	err := h(ctx, e)
	switch {
	case err == nil:
		return true
	case fault.Is(err, fault.Invalid):
		return b.bury(ctx, sub, m, err)
	case ctx.Err() == nil:
		b.log.WarnContext(ctx, "event will be delivered again", "subscription", sub.Name(), "event_id", e.ID, "event_type", e.Type, "error", err)
	}
	return false
}

// reasonAttribute tells on a dead letter why it is one.
const reasonAttribute = "sluice-reason"

// bury moves a message that nobody will ever understand to the dead letters at once.
func (b *Bus) bury(ctx context.Context, sub bus.Subscription, m *pubsub.Message, reason error) bool {
	dead := &pubsub.Message{Data: m.Data, Attributes: map[string]string{
		reasonAttribute: clip(reason.Error(), 1000), "sluice-subscription": sub.Name(), "sluice-message-id": m.ID,
	}}
	for k, v := range m.Attributes {
		dead.Attributes[k] = v
	}
	b.log.ErrorContext(ctx, "event is a dead letter", "subscription", sub.Name(), "message_id", m.ID, "error", reason)
	if _, err := b.publisher(bus.Dead(sub.Topic)).Publish(ctx, dead).Get(ctx); err != nil {
		b.log.ErrorContext(ctx, "dead letter could not be written: the event will be delivered again", "message_id", m.ID, "error", err)
		return false
	}
	return true
}

// clip cuts a text for an attribute, which takes up to 1,024 bytes.
func clip(s string, n int) string {
	for len(s) > n {
		s = s[:n]
		for len(s) > 0 && s[len(s)-1] >= 0x80 { // not inside a character
			s = s[:len(s)-1]
		}
	}
	return s
}

// wrap gives an error of Pub/Sub the kind that callers act on.
func wrap(err error, format string, args ...any) error {
	kind := fault.Unavailable
	switch status.Code(err) {
	case codes.NotFound:
		kind = fault.NotFound
	case codes.InvalidArgument:
		kind = fault.Invalid
	case codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition:
		kind = fault.Refused
	default:
	}
	return fault.New(kind, format+": %w", append(args, err)...)
}
