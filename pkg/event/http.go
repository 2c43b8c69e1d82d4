package event

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"time"

	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"

	"sluice.dev/pkg/fault"
)

// MaxBody is the largest message taken, Pub/Sub's own limit.
const MaxBody = 10_000_000

// maxKey is the longest Idempotency-Key taken, in bytes; it becomes an id, which is kept with the outcome.
const maxKey = 255

// keepRaw is how much of a message that cannot be read is kept for people to look at.
const keepRaw = 4096

// FromHTTP reads a message for a topic: a CloudEvent in the HTTP binding, or bare JSON, whose id is its Idempotency-Key
// or, without one, the id given here. Who repeats a request that was not answered sends the same key. The event is
// returned also when its payload is wrong; Invalid then lists the faults.
func FromHTTP(r *http.Request, topic, id string, now time.Time) (*Event, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "reading the message: %w", err)
	}
	key := r.Header.Get("Idempotency-Key")
	if key != "" && len(key) <= maxKey {
		id = key
	}
	e := &Event{ID: id, Type: BareType(topic), Source: "//sluice/http", Time: now, Trace: r.Header.Get("Traceparent")}
	if len(body) > MaxBody {
		e.refuse(body, fault.New(fault.Invalid, "the message is larger than %d bytes", MaxBody))
		return e, nil
	}
	if len(key) > maxKey {
		e.refuse(body, fault.New(fault.Invalid, "the Idempotency-Key has %d bytes: at most %d are taken", len(key), maxKey))
		return e, nil
	}
	if isCloudEvent(r.Header) {
		e.Read(r.Context(), topic, cehttp.NewMessage(r.Header, io.NopCloser(bytes.NewReader(body))), body)
	} else {
		e.fill(topic, body)
	}
	return e, nil
}

func isCloudEvent(h http.Header) bool {
	return h.Get("Ce-Specversion") != "" || strings.HasPrefix(h.Get("Content-Type"), "application/cloudevents+json")
}
