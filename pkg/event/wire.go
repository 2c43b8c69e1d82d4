package event

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"

	"sluice.dev/pkg/fault"
)

// Types lists the types that travel on a topic of ours; nil for another system's topic.
func Types(topic string) []string {
	switch topic {
	case TopicTriggers:
		return []string{TypeTriggered}
	case TopicPhaseCompletions:
		return []string{TypePhaseDone, TypeProgressed, TypeDateChanged}
	case TopicEvents:
		return []string{TypeJournal}
	default:
		if t := BareType(topic); t != "" {
			return []string{t}
		}
		return nil
	}
}

// Bare makes an event of a message without CloudEvent attributes: bare JSON on the topics that take it, or
// another system's message.
func Bare(topic, id string, body []byte) *Event {
	e := &Event{ID: id, Type: BareType(topic)}
	e.fill(topic, body)
	return e
}

// Read fills the event from a CloudEvent in any binding. What is wrong with it is kept, with the beginning
// of its body.
func (e *Event) Read(ctx context.Context, topic string, msg binding.Message, body []byte) {
	ce, err := binding.ToEvent(ctx, msg)
	if err != nil {
		e.refuse(body, fault.New(fault.Invalid, "the CloudEvent cannot be read: %v", err))
		return
	}
	e.ID, e.Type, e.Source, e.Subject, e.Time = ce.ID(), ce.Type(), ce.Source(), ce.Subject(), ce.Time()
	if trace, ok := ce.Extensions()["traceparent"].(string); ok {
		e.Trace = trace
	}
	if err := ce.Validate(); err != nil {
		e.refuse(ce.Data(), fault.New(fault.Invalid, "the CloudEvent is not valid: %v", err))
		return
	}
	e.fill(topic, ce.Data())
}

// CloudEvent is the event for a transport. Only events with a payload of ours have one.
func (e *Event) CloudEvent() (cloudevents.Event, error) {
	ce := cloudevents.NewEvent()
	ce.SetID(e.ID)
	ce.SetType(e.Type)
	ce.SetSource(e.Source)
	ce.SetSubject(e.Subject)
	if !e.Time.IsZero() {
		ce.SetTime(e.Time)
	}
	if e.Trace != "" {
		ce.SetExtension("traceparent", e.Trace)
	}
	body, err := MarshalCompact(e.Data)
	if err != nil {
		return ce, err
	}
	if e.Type == TypeJournal {
		body = wholeNumbers.ReplaceAll(body, []byte("$1$2"))
	}
	if err := ce.SetData(cloudevents.ApplicationJSON, body); err != nil {
		return ce, fmt.Errorf("writing event %s: %w", e.ID, err)
	}
	return ce, nil
}

// fill sets the payload from its JSON. On a topic that is not ours the payload stays raw.
func (e *Event) fill(topic string, body []byte) {
	types := Types(topic)
	if types == nil {
		e.Raw = body
		return
	}
	if !slices.Contains(types, e.Type) {
		e.refuse(body, fault.New(fault.Invalid, "topic %s takes events of type %s, not %q", topic, strings.Join(types, ", "), e.Type))
		return
	}
	m, err := Decode(e.Type, body)
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

// wholeNumbers are the journal's 64-bit fields, which protobuf's JSON writes as text. BigQuery's subscription wants
// numbers for a column of numbers, and what reads them takes either. A text that holds such a pair has its quotes escaped.
var wholeNumbers = regexp.MustCompile(`("(?:records|bytes_billed)":\s*)"(-?\d+)"`)
