package gcpbus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
)

var (
	_ bus.Subscriber = (*Push)(nil)
	_ http.Handler   = (*Push)(nil)
)

// Push receives what push subscriptions post. A subscription's endpoint ends with its name, as in
// https://host/push/phase-gate.phase-completions. A message is answered with 204 once its handler returned nil or
// it is a dead letter, with 401 when its token is not the configured service account's, and with 503 otherwise, so
// that Pub/Sub delivers it again.
type Push struct {
	bus    *Bus
	verify Verify

	mu        sync.Mutex
	receivers map[string][]*receiver
}

// Verify checks the token of a push request.
type Verify func(ctx context.Context, token string) error

// receiver is one running Receive.
type receiver struct {
	sub     bus.Subscription
	handle  bus.Handler
	ctx     context.Context
	workers chan struct{} // a token for each handler that runs
	running sync.WaitGroup
}

// Push makes the receiving end of push subscriptions. Without verify, as with the emulator, which signs nothing,
// every request is taken.
func (b *Bus) Push(verify Verify) *Push {
	return &Push{bus: b, verify: verify, receivers: map[string][]*receiver{}}
}

// Receive implements bus.Subscriber.
func (p *Push) Receive(ctx context.Context, sub bus.Subscription, h bus.Handler) error {
	name := "projects/" + p.bus.client.Project() + "/subscriptions/" + sub.Name()
	_, err := p.bus.client.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: name})
	if status.Code(err) == codes.NotFound {
		return fault.New(fault.NotFound, "no subscription %s: create it: %w", sub.Name(), err)
	} // whoever may not look may receive all the same
	r := &receiver{sub: sub, handle: h, ctx: ctx, workers: make(chan struct{}, sub.Workers())}
	p.mu.Lock()
	p.receivers[sub.Name()] = append(p.receivers[sub.Name()], r)
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.receivers[sub.Name()] = slices.DeleteFunc(p.receivers[sub.Name()], func(x *receiver) bool { return x == r })
	p.mu.Unlock()
	r.running.Wait()
	return nil
}

// begin finds the receiver with the fewest handlers running and counts one more.
func (p *Push) begin(name string) (r *receiver, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, known := p.receivers[name]
	for _, x := range all {
		if r == nil || len(x.workers) < len(r.workers) {
			r = x
		}
	}
	if r != nil {
		r.running.Add(1)
	}
	return r, known
}

// ServeHTTP takes one message.
func (p *Push) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	ctx := req.Context()
	if p.verify != nil {
		token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		if err := p.verify(ctx, token); err != nil {
			p.bus.log.WarnContext(ctx, "push refused", "path", req.URL.Path, "error", err)
			if fault.Retryable(err) { // the keys to verify with could not be had
				http.Error(w, "the token cannot be verified now", http.StatusServiceUnavailable)
				return
			}
			http.Error(w, "not allowed", http.StatusUnauthorized)
			return
		}
	}
	name := path.Base(req.URL.Path)
	r, known := p.begin(name)
	if r == nil {
		if known {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		http.Error(w, fmt.Sprintf("nobody here receives subscription %q", name), http.StatusNotFound)
		return
	}
	defer r.running.Done()
	m, err := pushed(req)
	if err != nil {
		http.Error(w, err.Error(), pushStatus(err))
		return
	}
	if !p.deliver(ctx, r, m) {
		http.Error(w, "to be delivered again", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func pushStatus(err error) int {
	if fault.Is(err, fault.Invalid) {
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

// deliver waits for a worker; while all are busy the message is the endpoint's, and its deadline runs.
func (p *Push) deliver(ctx context.Context, r *receiver, m *pubsub.Message) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	select {
	case r.workers <- struct{}{}:
		defer func() { <-r.workers }()
	case <-ctx.Done():
		return false
	}
	return p.bus.deliver(ctx, r.sub, m, r.handle)
}

// The headers of an unwrapped message, when the subscription writes metadata.
const (
	pushMessageID = "X-Goog-Pubsub-Message-Id"
	pushTime      = "X-Goog-Pubsub-Publish-Time"
)

// wrapped is the body of a push with Pub/Sub's envelope.
type wrapped struct {
	Message *struct {
		Data        []byte            `json:"data"`
		Attributes  map[string]string `json:"attributes"`
		MessageID   string            `json:"messageId"`
		PublishTime time.Time         `json:"publishTime"`
	} `json:"message"`
	Subscription string `json:"subscription"`
}

// pushed reads a message in Pub/Sub's envelope, or without it, where the attributes are headers.
func pushed(r *http.Request) (*pubsub.Message, error) {
	const limit = event.MaxBody*4/3 + 64<<10 // in base64, with attributes
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, limit))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return nil, fault.New(fault.Invalid, "the message is larger than Pub/Sub allows")
	}
	if err != nil {
		return nil, fault.New(fault.Unavailable, "the message was cut short: %w", err)
	}
	if r.Header.Get(pushMessageID) == "" {
		var w wrapped
		if err := json.Unmarshal(body, &w); err == nil && w.Message != nil && w.Subscription != "" {
			return &pubsub.Message{ID: w.Message.MessageID, Data: w.Message.Data, Attributes: w.Message.Attributes, PublishTime: w.Message.PublishTime}, nil
		}
	}
	m := &pubsub.Message{ID: r.Header.Get(pushMessageID), Data: body, Attributes: map[string]string{}}
	if at, err := time.Parse(time.RFC3339Nano, r.Header.Get(pushTime)); err == nil {
		m.PublishTime = at
	}
	if m.ID == "" { // the same message has the same id
		sum := sha256.Sum256(body)
		m.ID = hex.EncodeToString(sum[:16])
	}
	structured := strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents+json")
	for k := range r.Header {
		name := strings.ToLower(k)
		if strings.HasPrefix(name, "ce-") || (name == contentType && (structured || r.Header.Get("Ce-Specversion") != "")) {
			m.Attributes[name] = r.Header.Get(k)
		}
	}
	return m, nil
}
