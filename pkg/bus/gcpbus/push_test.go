package gcpbus_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/api/option"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/bustest"
	"sluice.dev/pkg/bus/gcpbus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	pb "sluice.dev/proto/gen/sluice/v1"
)

// pushBus publishes to Pub/Sub and receives what it pushes.
type pushBus struct {
	*gcpbus.Bus
	push *gcpbus.Push
}

func (b pushBus) Receive(ctx context.Context, sub bus.Subscription, h bus.Handler) error {
	return b.push.Receive(ctx, sub, h)
}

func TestPush(t *testing.T) {
	t.Parallel()
	bustest.Run(t, bustest.Options{
		Patience: 30 * time.Second,
		New: func(t *testing.T, subs ...bus.Subscription) bustest.Bus {
			t.Helper()
			b, project := open(t)
			push := b.Push(nil)
			server := httptest.NewServer(push)
			t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
			topology := gcpbus.Topology{Push: func(s bus.Subscription) string { return server.URL + "/push/" + s.Name() }}
			if err := b.Create(t.Context(), topology, []string{event.TopicCompletions, event.TopicEvents}, subs...); err != nil {
				t.Fatal(err)
			}
			held.Store(pushBus{b, push}, hold(t, project, subs))
			return pushBus{b, push}
		},
		Dead: dead,
	})
}

// endpoint is a push endpoint whose handler keeps what it gets.
func endpoint(t *testing.T, verify gcpbus.Verify, h bus.Handler) string {
	t.Helper()
	b, _ := open(t)
	sub := bus.Subscription{Consumer: "tracker", Topic: event.TopicCompletions}
	if err := b.Create(t.Context(), gcpbus.Topology{}, nil, sub); err != nil {
		t.Fatal(err)
	}
	push := b.Push(verify)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- push.Receive(ctx, sub, h) }()
	server := httptest.NewServer(push)
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	url := server.URL + "/push/" + sub.Name()
	for deadline := time.Now().Add(20 * time.Second); post(t, url, "{}", nil) == http.StatusNotFound; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the endpoint does not receive")
		}
	}
	return url
}

func post(t *testing.T, url, body string, headers map[string]string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func TestPushBodies(t *testing.T) {
	t.Parallel()
	const body = `{"pipeline":"nba","date":"2023-10-24","phase":"phase_2_raw","processor":"bdl_games","status":"succeeded"}`
	structured := `{"specversion":"1.0","id":"ce-7","type":"sluice.processor.completed.v1","source":"//me","subject":"s","datacontenttype":"application/json","traceparent":"00-aa-bb-01","data":` + body + `}`
	const structuredType = "application/cloudevents+json; charset=utf-8"
	wrap := func(data, attributes string) string {
		return fmt.Sprintf(`{"message":{"data":%q,"attributes":%s,"messageId":"m-1","message_id":"m-1","publishTime":"2024-01-02T03:04:05Z"},"subscription":"projects/p/subscriptions/s","deliveryAttempt":1}`,
			base64.StdEncoding.EncodeToString([]byte(data)), attributes)
	}
	binary := map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "ce-7", "Ce-Type": event.TypeCompleted, "Ce-Source": "//me", "Ce-Traceparent": "00-aa-bb-01", "Content-Type": "application/json"}
	got := make(chan *event.Event, 1)
	url := endpoint(t, nil, func(_ context.Context, e *event.Event) error {
		select {
		case got <- e:
		default:
		}
		return e.Err()
	})
	<-got // the one that found out whether the endpoint receives
	for name, test := range map[string]struct {
		body    string
		headers map[string]string
		id      string
		trace   string
	}{
		"wrapped bare":         {wrap(body, `null`), nil, "m-1", ""},
		"wrapped binary":       {wrap(body, `{"ce-specversion":"1.0","ce-id":"ce-7","ce-type":"sluice.processor.completed.v1","ce-source":"//me","ce-traceparent":"00-aa-bb-01","content-type":"application/json"}`), nil, "ce-7", "00-aa-bb-01"},
		"wrapped structured":   {wrap(structured, `{"content-type":"application/cloudevents+json"}`), nil, "ce-7", "00-aa-bb-01"},
		"unwrapped bare":       {body, map[string]string{"X-Goog-Pubsub-Message-Id": "m-2"}, "m-2", ""},
		"unwrapped binary":     {body, binary, "ce-7", "00-aa-bb-01"},
		"unwrapped structured": {structured, map[string]string{"Content-Type": structuredType}, "ce-7", "00-aa-bb-01"},
	} {
		if status := post(t, url, test.body, test.headers); status != http.StatusNoContent {
			t.Errorf("%s: status %d", name, status)
		}
		e := <-got
		m, ok := e.Data.(*pb.ProcessorCompleted)
		if e.ID != test.id || e.Trace != test.trace || !ok || m.GetProcessor() != "bdl_games" {
			t.Errorf("%s: read as %+v", name, e)
		}
	}
}

func TestPushAnswers(t *testing.T) {
	t.Parallel()
	var result error
	url := endpoint(t, nil, func(context.Context, *event.Event) error { return result })
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, http.StatusNoContent},
		{fault.New(fault.Invalid, "nobody understands this"), http.StatusNoContent}, // it is a dead letter
		{fault.New(fault.Unavailable, "later"), http.StatusServiceUnavailable},
		{fault.New(fault.Refused, "not now"), http.StatusServiceUnavailable},
	} {
		result = test.err
		if got := post(t, url, "{}", nil); got != test.want {
			t.Errorf("%v is answered with %d, not %d", test.err, got, test.want)
		}
	}
	if got := post(t, url+"x", "{}", nil); got != http.StatusNotFound {
		t.Errorf("an unknown subscription is answered with %d", got)
	}
}

// signer makes tokens as Google does, and serves the key to verify them with.
type signer struct {
	key  *rsa.PrivateKey
	down bool
}

func (s *signer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]string{"alg": "RS256", "kid": "k1", "typ": "JWT"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// RoundTrip answers requests for Google's keys.
func (s *signer) RoundTrip(req *http.Request) (*http.Response, error) {
	if s.down {
		return nil, fmt.Errorf("no route to %s", req.URL.Host)
	}
	body := fmt.Sprintf(`{"keys":[{"kty":"RSA","alg":"RS256","use":"sig","kid":"k1","n":%q,"e":%q}]}`,
		base64.RawURLEncoding.EncodeToString(s.key.N.Bytes()), base64.RawURLEncoding.EncodeToString(big.NewInt(int64(s.key.E)).Bytes()))
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

func TestPushTokens(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{key: key}
	const audience, account = "https://tracker.example", "pusher@p.iam.gserviceaccount.com"
	claims := func(changes ...any) map[string]any {
		c := map[string]any{"iss": "https://accounts.google.com", "aud": audience, "email": account, "email_verified": true, "sub": "1", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
		for i := 0; i < len(changes); i += 2 {
			c[changes[i].(string)] = changes[i+1]
		}
		return c
	}
	down, err := gcpbus.VerifyToken(t.Context(), audience, account, option.WithHTTPClient(&http.Client{Transport: &signer{key: key, down: true}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := down(t.Context(), s.token(t, claims())); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without the keys: %v, which does not say to try again", err)
	}
	verify, err := gcpbus.VerifyToken(t.Context(), audience, account, option.WithHTTPClient(&http.Client{Transport: s}))
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"none": "", "garbage": "abc", "another audience": s.token(t, claims("aud", "https://other.example")),
		"another account": s.token(t, claims("email", "x@y.z")), "an unverified address": s.token(t, claims("email_verified", false)),
		"expired": s.token(t, claims("exp", time.Now().Add(-time.Hour).Unix())), "another issuer": s.token(t, claims("iss", "https://evil.example")),
		"another key": (&signer{key: other}).token(t, claims()),
	} {
		if err := verify(t.Context(), token); !fault.Is(err, fault.Refused) {
			t.Errorf("%s: %v, which is no refusal", name, err)
		}
	}
	if err := verify(t.Context(), s.token(t, claims())); err != nil {
		t.Errorf("Google's token is refused: %v", err)
	}
	if _, err := gcpbus.VerifyToken(t.Context(), audience, ""); !fault.Is(err, fault.Invalid) {
		t.Errorf("without a service account: %v", err)
	}

	url := endpoint(t, func(_ context.Context, token string) error {
		if token == "" { // for finding out whether the endpoint receives
			return nil
		}
		return verify(t.Context(), token)
	}, func(context.Context, *event.Event) error { return nil })
	for token, want := range map[string]int{"bad": http.StatusUnauthorized, s.token(t, claims()): http.StatusNoContent} {
		if got := post(t, url, "{}", map[string]string{"Authorization": "Bearer " + token}); got != want {
			t.Errorf("answered %d, not %d", got, want)
		}
	}
}
