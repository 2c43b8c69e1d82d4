package event

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"sluice.dev/pkg/fault"
)

// MaxBody is the largest message taken, Pub/Sub's own limit.
const MaxBody = 10_000_000

// keepRaw is how much of a message that cannot be read is kept for people to look at.
const keepRaw = 4096

// FromHTTP reads a message for a topic: a CloudEvent in the HTTP binding, or bare JSON, which is given id.
// The event is returned also when its payload is wrong; Invalid then lists the faults.
func FromHTTP(r *http.Request, topic, id string, now time.Time) (*Event, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "reading the message: %w", err)
	}
	e := &Event{ID: id, Type: BareType(topic), Source: "//sluice/http", Time: now, Trace: r.Header.Get("Traceparent")}
	if len(body) > MaxBody {
		e.refuse(body, fault.New(fault.Invalid, "the message is larger than %d bytes", MaxBody))
		return e, nil
	}
	if isCloudEvent(r.Header) {
		if body, err = e.unwrap(r.Context(), r.Header, body); err != nil {
			e.refuse(body, err)
			return e, nil
		}
	}
	e.Fill(topic, body)
	return e, nil
}

func isCloudEvent(h http.Header) bool {
	return h.Get("Ce-Specversion") != "" || strings.HasPrefix(h.Get("Content-Type"), "application/cloudevents+json")
}

func (e *Event) unwrap(ctx context.Context, h http.Header, body []byte) ([]byte, error) {
	msg := cehttp.NewMessage(h, io.NopCloser(strings.NewReader(string(body))))
	ce, err := binding.ToEvent(ctx, msg)
	if err != nil {
		return body, fault.New(fault.Invalid, "the CloudEvent cannot be read: %v", err)
	}
	e.ID, e.Type, e.Source, e.Subject, e.Time = ce.ID(), ce.Type(), ce.Source(), ce.Subject(), ce.Time()
	if trace, ok := ce.Extensions()["traceparent"].(string); ok {
		e.Trace = trace
	}
	if err := ce.Validate(); err != nil {
		return ce.Data(), fault.New(fault.Invalid, "the CloudEvent is not valid: %v", err)
	}
	return ce.Data(), nil
}

// Fill sets the payload from its JSON. On a topic that is not ours the payload stays raw.
func (e *Event) Fill(topic string, body []byte) {
	want := BareType(topic)
	if want == "" {
		e.Raw = body
		return
	}
	if e.Type != want {
		e.refuse(body, fault.New(fault.Invalid, "topic %s takes events of type %s, not %q", topic, want, e.Type))
		return
	}
	m, err := Decode(want, body)
	if err != nil {
		e.refuse(body, err)
		return
	}
	e.Data = m
}

func (e *Event) refuse(body []byte, err error) {
	e.Raw = body[:min(len(body), keepRaw)]
	e.Invalid = fault.Faults(err)
}

// Err tells what is wrong with the event's payload, nil when nothing is.
func (e *Event) Err() error {
	if len(e.Invalid) == 0 {
		return nil
	}
	return fmt.Errorf("event %s: %w", e.ID, fault.List(e.Invalid).Err())
}
