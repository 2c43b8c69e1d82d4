package dispatch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/telemetry"
)

// target serves one handler, and a scope with a phase that calls it.
func target(t *testing.T, async bool, h http.HandlerFunc) (*backfill.Scope, backfill.Job) {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	p := &backfill.Pipeline{Name: "p", Phases: []backfill.Phase{{
		ID: "one", Trigger: backfill.Trigger{HTTP: &backfill.HTTPTrigger{URL: server.URL, Async: async, Auth: "oidc", Body: `{"day":"{{.Date}}","who":"{{.Processor}}","why":"{{.Reason}}"}`}},
		Processors: []backfill.Processor{{Name: "a", Timeout: 300 * time.Millisecond}},
	}}}
	cal := backfill.NewCalendar([]backfill.Partition{{Date: 19700}})
	s := backfill.NewScope(&backfill.Backfill{ID: "b", Dates: cal, Calendar: cal}, p)
	return s, backfill.Job{Lane: backfill.Lane{Backfill: "b", Phase: "one"}, Date: 19700, Processors: []string{"a"}, Attempts: []int{3}}
}

// The table of the contract.
func TestAnswersAreClassified(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status    int
		async     bool
		kind      kind
		retryable bool
		calm      backfill.Answer
	}{
		{200, false, succeeded, false, backfill.Calm}, {204, false, succeeded, false, backfill.Calm},
		{200, true, accepted, false, backfill.Neutral}, {204, true, accepted, false, backfill.Neutral},
		{202, false, accepted, false, backfill.Neutral}, {202, true, accepted, false, backfill.Neutral},
		{429, false, throttled, false, backfill.Neutral}, {503, true, throttled, false, backfill.Neutral},
		{408, false, failed, true, backfill.Neutral}, {425, false, failed, true, backfill.Neutral}, {500, false, failed, true, backfill.Neutral},
		{502, false, failed, true, backfill.Neutral}, {504, false, failed, true, backfill.Overloaded},
		{400, false, failed, false, backfill.Neutral}, {401, false, failed, false, backfill.Neutral}, {404, true, failed, false, backfill.Neutral},
		{422, false, failed, false, backfill.Neutral}, {301, false, failed, false, backfill.Neutral},
	} {
		s, j := target(t, c.async, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, "because")
		})
		got := NewCaller(nil).Call(t.Context(), s, "", "", j)
		if got.kind != c.kind || got.retryable != c.retryable || got.calm() != c.calm {
			t.Errorf("%d (async %t): %+v", c.status, c.async, got)
		}
		if c.kind == failed && c.status != 301 && !strings.Contains(got.message, "because") {
			t.Errorf("%d: the message is %q", c.status, got.message)
		}
	}
}

func TestWhatACallSays(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body string
	s, j := target(t, false, func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r.Clone(context.Background()), string(b)
	})
	token := func(_ context.Context, url string) (string, error) { return "token-for-" + url, nil }
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if a := NewCaller(token).Call(telemetry.From(t.Context(), parent), s, `a "good" reason`, "", j); a.kind != succeeded {
		t.Fatalf("%+v", a)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Idempotency-Key": "b/2023-12-09/one/a/3", "X-Sluice-Backfill": "b",
		"Authorization": "Bearer token-for-" + s.Pipeline.Phases[0].Trigger.HTTP.URL,
	} {
		if got.Header.Get(name) != want {
			t.Errorf("%s is %q, not %q", name, got.Header.Get(name), want)
		}
	}
	if got.Header.Get("Traceparent") != parent || got.Method != http.MethodPost {
		t.Errorf("%v", got.Header)
	}
	if body != `{"day":"2023-12-09","who":"a","why":"a \"good\" reason"}` {
		t.Errorf("body %s", body)
	}
}

func TestNoAnswerIsRetryable(t *testing.T) {
	t.Parallel()
	s, j := target(t, false, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the caller has gone
		<-r.Context().Done()
	})
	if a := NewCaller(nil).Call(t.Context(), s, "", "", j); a.kind != failed || !a.retryable || !a.timeout || !strings.Contains(a.message, "no answer within 300ms") {
		t.Errorf("a hang: %+v", a)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if a := NewCaller(nil).Call(ctx, s, "", "", j); a.kind != interrupted {
		t.Errorf("cancelled by us: %+v", a)
	}
	s, j = target(t, false, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if a := NewCaller(nil).Call(t.Context(), s, "", "", j); a.kind != failed || !a.retryable || a.timeout {
		t.Errorf("a reset: %+v", a)
	}
	s.Pipeline.Phases[0].Trigger.HTTP.URL = "http://127.0.0.1:1"
	if a := NewCaller(nil).Call(t.Context(), s, "", "", j); a.kind != failed || !a.retryable {
		t.Errorf("nobody there: %+v", a)
	}
	no := func(context.Context, string) (string, error) { return "", errors.New("no credentials") }
	if a := NewCaller(no).Call(t.Context(), s, "", "", j); a.kind != failed || !a.retryable || !strings.Contains(a.message, "no credentials") {
		t.Errorf("no token: %+v", a)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for v, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "0.25": 250 * time.Millisecond, "soon": 0, "-1": 0, "999999999": 0} {
		r := &http.Response{Header: http.Header{"Retry-After": {v}}}
		if got := retryAfter(r); got != want {
			t.Errorf("%q: %s", v, got)
		}
	}
	r := &http.Response{Header: http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}}
	if got := retryAfter(r); got < 59*time.Minute || got > time.Hour {
		t.Errorf("a date: %s", got)
	}
}
