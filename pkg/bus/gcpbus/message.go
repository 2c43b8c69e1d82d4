package gcpbus

import (
	"context"
	"fmt"
	"strings"

	"cloud.google.com/go/pubsub/v2"
	cepubsub "github.com/cloudevents/sdk-go/protocol/pubsub/v2"
	"github.com/cloudevents/sdk-go/v2/binding"

	"sluice.dev/pkg/event"
)

// The SDK's binding writes and looks for the first, the contract says the second; both are read.
const (
	sdkContentType = "Content-Type"
	contentType    = "content-type"
)

// encode writes an event in the binding's binary mode, and another system's message as it is.
func encode(ctx context.Context, e *event.Event) (*pubsub.Message, error) {
	if e.Data == nil {
		return &pubsub.Message{Data: e.Raw}, nil
	}
	ce, err := e.CloudEvent()
	if err != nil {
		return nil, err
	}
	m := &pubsub.Message{Attributes: map[string]string{}}
	if err := cepubsub.WritePubSubMessage(binding.WithForceBinary(ctx), binding.ToMessage(&ce), m); err != nil {
		return nil, fmt.Errorf("writing event %s: %w", e.ID, err)
	}
	if v, ok := m.Attributes[sdkContentType]; ok {
		delete(m.Attributes, sdkContentType)
		m.Attributes[contentType] = v
	}
	return m, nil
}

// decode reads a CloudEvent in either mode, bare JSON, or another system's message.
func decode(ctx context.Context, topic string, m *pubsub.Message) *event.Event {
	attributes := make(map[string]string, len(m.Attributes))
	structured, binary := false, false
	for k, v := range m.Attributes {
		if strings.EqualFold(k, contentType) {
			k = sdkContentType
			structured = strings.HasPrefix(v, "application/cloudevents+json")
		}
		binary = binary || k == "ce-specversion"
		attributes[k] = v
	}
	if !structured && !binary {
		e := event.Bare(topic, m.ID, m.Data)
		e.Source, e.Time = "//pubsub.googleapis.com", m.PublishTime
		return e
	}
	e := &event.Event{ID: m.ID, Type: event.BareType(topic), Time: m.PublishTime}
	e.Read(ctx, topic, cepubsub.NewMessage(&pubsub.Message{ID: m.ID, Data: m.Data, Attributes: attributes}), m.Data)
	return e
}
