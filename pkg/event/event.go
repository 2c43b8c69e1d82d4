// Package event turns the messages of package sluicev1 into events and back: which type travels on which
// topic, what an event's id and subject are, and how its JSON is read strictly. It knows no transport.
package event

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "sluice.dev/proto/gen/sluice/v1"
)

// The topics.
const (
	TopicRequests         = "backfill-requests"
	TopicControls         = "backfill-controls"
	TopicTriggers         = "phase-triggers"
	TopicCompletions      = "processor-completions"
	TopicPhaseCompletions = "phase-completions"
	TopicEvents           = "backfill-events"
)

// Topics lists them.
func Topics() []string {
	return []string{TopicRequests, TopicControls, TopicTriggers, TopicCompletions, TopicPhaseCompletions, TopicEvents}
}

// The CloudEvent types.
const (
	TypeRequested   = "sluice.backfill.requested.v1"
	TypeControlled  = "sluice.backfill.controlled.v1"
	TypeTriggered   = "sluice.phase.triggered.v1"
	TypeCompleted   = "sluice.processor.completed.v1"
	TypePhaseDone   = "sluice.phase.completed.v1"
	TypeProgressed  = "sluice.phase.progressed.v1"
	TypeDateChanged = "sluice.date.changed.v1"
	TypeJournal     = "sluice.backfill.event.v1"
)

// Event is one message. Data is nil when the payload is another system's (an adapter topic) or could not
// be read; Raw then holds it, and Invalid says what is wrong with it. Events are shared between consumers
// and must not be changed after they were published.
type Event struct {
	ID      string
	Type    string
	Source  string
	Subject string
	Time    time.Time
	Trace   string // W3C traceparent
	Data    proto.Message
	Raw     []byte
	Invalid []string
}

// New makes an event of our own. Its id follows from the parts, so that the same fact has the same id
// whoever tells it and however often.
func New(typ, source, subject string, at time.Time, data proto.Message, idParts ...string) *Event {
	return &Event{
		ID: ID(append([]string{typ, subject}, idParts...)...), Type: typ, Source: source,
		Subject: subject, Time: at, Data: data,
	}
}

// Traceparent is the W3C trace context of a call: everything about one date of a backfill is one trace.
func Traceparent(backfill, date, key string) string {
	return "00-" + ID(backfill, date) + "-" + ID(key)[:16] + "-01"
}

// ID is a short hash of the parts.
func ID(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// Subject joins backfill, date, phase and processor, as many as there are.
func Subject(parts ...string) string {
	for len(parts) > 0 && parts[len(parts)-1] == "" {
		parts = parts[:len(parts)-1]
	}
	return strings.Join(parts, "/")
}

// payload makes an empty message for a type.
func payload(typ string) proto.Message {
	switch typ {
	case TypeRequested:
		return new(pb.BackfillRequested)
	case TypeControlled:
		return new(pb.BackfillControlled)
	case TypeTriggered:
		return new(pb.PhaseTriggered)
	case TypeCompleted:
		return new(pb.ProcessorCompleted)
	case TypePhaseDone, TypeProgressed, TypeDateChanged:
		return new(pb.PhaseProgressed)
	case TypeJournal:
		return new(pb.BackfillEvent)
	default:
		return nil
	}
}

// BareType is the type that a bare JSON body on a topic stands for; empty where bare JSON is not taken.
func BareType(topic string) string {
	switch topic {
	case TopicRequests:
		return TypeRequested
	case TopicControls:
		return TypeControlled
	case TopicCompletions:
		return TypeCompleted
	default:
		return ""
	}
}
