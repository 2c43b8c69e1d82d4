package gcpbus

import (
	"context"

	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/fault"
)

// Checker looks at topics that are published to, and subscriptions that are received from.
type Checker struct {
	bus       *Bus
	topics    []string
	receivers []bus.Subscription
}

// Checker makes a check of what a service uses.
func (b *Bus) Checker(topics []string, receivers ...bus.Subscription) *Checker {
	return &Checker{b, topics, receivers}
}

// Check lists what is missing: topics, subscriptions, or the permission to use them. The emulator knows no
// permissions.
func (c *Checker) Check(ctx context.Context) []error {
	var out []error
	project := "projects/" + c.bus.client.Project()
	note := func(err error) {
		if err != nil {
			out = append(out, err)
		}
	}
	for _, topic := range c.topics {
		name := project + "/topics/" + topic
		_, err := c.bus.client.TopicAdminClient.GetTopic(ctx, &pubsubpb.GetTopicRequest{Topic: name})
		note(there(err, "topic "+topic))
		if err == nil {
			note(c.may(ctx, name, "pubsub.topics.publish"))
		}
	}
	for _, sub := range c.receivers {
		name := project + "/subscriptions/" + sub.Name()
		_, err := c.bus.client.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: name})
		note(there(err, "subscription "+sub.Name()))
		if err == nil {
			note(c.may(ctx, name, "pubsub.subscriptions.consume"))
		}
	}
	return out
}

// there says that something is missing or cannot be seen; not being allowed to look is no proof of either.
func there(err error, what string) error {
	switch status.Code(err) {
	case codes.OK, codes.PermissionDenied:
		return nil
	case codes.NotFound:
		return fault.New(fault.NotFound, "there is no %s", what)
	default:
		return wrap(err, "looking at %s", what)
	}
}

func (c *Checker) may(ctx context.Context, resource, permission string) error {
	req := &iampb.TestIamPermissionsRequest{Resource: resource, Permissions: []string{permission}}
	var answer *iampb.TestIamPermissionsResponse
	var err error
	if permission == "pubsub.topics.publish" {
		answer, err = c.bus.client.TopicAdminClient.TestIamPermissions(ctx, req)
	} else {
		answer, err = c.bus.client.SubscriptionAdminClient.TestIamPermissions(ctx, req)
	}
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil
	case err != nil:
		return wrap(err, "asking for permissions on %s", resource)
	case len(answer.GetPermissions()) == 0:
		return fault.New(fault.Refused, "this service account lacks %s on %s", permission, resource)
	}
	return nil
}
