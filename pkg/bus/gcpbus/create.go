package gcpbus

import (
	"context"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"sluice.dev/pkg/bus"
)

// Topology says how Create makes subscriptions.
type Topology struct {
	// Backoff is the wait before the first redelivery; it grows up to 60 times that.
	Backoff time.Duration
	// AckDeadline is how long a message of a consumer that vanished waits before it is delivered again; 0
	// means 60 s. Deadlines of messages that are being handled are extended.
	AckDeadline time.Duration
	// Push is where a subscription's messages are posted to; empty for a pull subscription.
	Push func(bus.Subscription) string
}

// Create makes topics with their dead letters, and subscriptions, as the infrastructure does in the cloud.
// What is there already stays as it is.
func (b *Bus) Create(ctx context.Context, t Topology, topics []string, subs ...bus.Subscription) error {
	project := "projects/" + b.client.Project()
	made := map[string]bool{}
	topic := func(name string) (string, error) {
		full := project + "/topics/" + name
		if made[name] {
			return full, nil
		}
		made[name] = true
		_, err := b.client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: full})
		return full, unlessThere(err, "creating topic %s", name)
	}
	for _, name := range topics {
		if _, err := topic(name); err != nil {
			return err
		}
	}
	for _, sub := range subs {
		full, err := topic(sub.Topic)
		if err != nil {
			return err
		}
		dead, err := topic(bus.Dead(sub.Topic))
		if err != nil {
			return err
		}
		hold := &pubsubpb.Subscription{Name: project + "/subscriptions/" + bus.Dead(sub.Topic) + ".hold", Topic: dead}
		if _, err := b.client.SubscriptionAdminClient.CreateSubscription(ctx, hold); unlessThere(err, "") != nil {
			return wrap(err, "creating subscription %s", hold.GetName())
		}
		s := &pubsubpb.Subscription{
			Name: project + "/subscriptions/" + sub.Name(), Topic: full, AckDeadlineSeconds: deadline(t.AckDeadline),
			DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: dead, MaxDeliveryAttempts: bus.MaxAttempts},
		}
		if t.Backoff > 0 {
			s.RetryPolicy = &pubsubpb.RetryPolicy{MinimumBackoff: durationpb.New(t.Backoff), MaximumBackoff: durationpb.New(min(60*t.Backoff, 10*time.Minute))}
		}
		if t.Push != nil {
			if url := t.Push(sub); url != "" {
				s.PushConfig = &pubsubpb.PushConfig{PushEndpoint: url}
			}
		}
		_, err = b.client.SubscriptionAdminClient.CreateSubscription(ctx, s)
		if err := unlessThere(err, "creating subscription %s", sub.Name()); err != nil {
			return err
		}
	}
	return nil
}

// deadline is in the whole seconds, 10 to 600, that Pub/Sub takes.
func deadline(d time.Duration) int32 {
	if d == 0 {
		d = time.Minute
	}
	return int32(min(max(d, 10*time.Second), 10*time.Minute) / time.Second)
}

func unlessThere(err error, format string, args ...any) error {
	if err == nil || status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return wrap(err, format, args...)
}
