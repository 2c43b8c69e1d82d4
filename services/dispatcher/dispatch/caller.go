package dispatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/pkg/telemetry"
)

// Caller calls processors over HTTP.
type Caller struct {
	client *http.Client
	// token returns an ID token for a target; nil where the process has no credentials.
	token func(ctx context.Context, url string) (string, error)
}

// NewCaller makes a caller. Targets that want OIDC are refused without token.
func NewCaller(token func(ctx context.Context, url string) (string, error)) *Caller {
	return &Caller{
		token: token,
		client: &http.Client{Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			MaxIdleConns:          1024,
			MaxIdleConnsPerHost:   512,
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: time.Second,
		}},
	}
}

type kind int

const (
	succeeded kind = iota
	accepted
	throttled
	failed
	interrupted // by us: cancelled or shutting down
)

// answer is what a call came to.
type answer struct {
	kind       kind
	retryable  bool
	timeout    bool
	retryAfter time.Duration
	message    string
}

func (a answer) calm() backfill.Answer {
	switch {
	case a.kind == succeeded:
		return backfill.Calm
	case a.timeout:
		return backfill.Overloaded
	default:
		return backfill.Neutral
	}
}

// Call makes the call of a job and classifies the answer as the contract's table says.
func (c *Caller) Call(ctx context.Context, s *backfill.Scope, reason, season string, j backfill.Job) answer {
	ph, _ := s.Pipeline.Phase(j.Phase)
	proc, _ := ph.Processor(j.Processors[0])
	target, processors := ph, j.Processors
	if ph.Trigger.HTTP == nil { // run again what feeds the silent processor
		src, _ := ph.OnTimeout.Source(proc.Name)
		target, _ = s.Pipeline.Phase(src.Phase)
		processors = []string{src.Processor}
	}
	h := target.Trigger.HTTP
	body, err := pipeline.Body(h, pipeline.Call{
		Backfill: s.ID, Pipeline: s.Pipeline.Name, Date: j.Date.String(), Season: season, Phase: target.ID,
		Processor: processors[0], Processors: processors, Attempt: j.Attempts[0], Reason: reason,
	})
	if err != nil {
		return answer{kind: failed, message: err.Error()}
	}
	within := time.Duration(0)
	for _, name := range j.Processors { // a call for a whole phase takes as long as its last processor
		proc, _ := ph.Processor(name)
		within = max(within, ph.Allowance(proc, 0))
	}
	if h.Timeout > 0 {
		within = min(within, h.Timeout)
	}
	callCtx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(callCtx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return answer{kind: failed, message: err.Error()}
	}
	name := proc.Name
	if h.PerPhase {
		name = "*"
	}
	req.Header.Set("Content-Type", "application/json")
	key := fmt.Sprintf("%s/%s/%s/%s/%d", s.ID, j.Date, j.Phase, name, j.Attempts[0])
	req.Header.Set("Idempotency-Key", key)
	req.Header.Set("X-Sluice-Backfill", s.ID)
	req.Header.Set("Traceparent", telemetry.Traceparent(ctx))
	if h.Auth == "oidc" && c.token != nil {
		token, err := c.token(callCtx, h.URL)
		if err != nil {
			return answer{kind: failed, retryable: true, message: "no identity token for the target: " + err.Error()}
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return broken(ctx, callCtx, within, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return broken(ctx, callCtx, within, err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // so that the connection can be used again
	return classify(resp, strings.TrimSpace(string(text)), h.Async)
}

// broken is a call without an answer.
func broken(ctx, callCtx context.Context, timeout time.Duration, err error) answer {
	switch {
	case ctx.Err() != nil:
		return answer{kind: interrupted}
	case errors.Is(callCtx.Err(), context.DeadlineExceeded):
		return answer{kind: failed, retryable: true, timeout: true, message: "no answer within " + timeout.String()}
	default:
		return answer{kind: failed, retryable: true, message: err.Error()}
	}
}

func classify(resp *http.Response, text string, async bool) answer {
	message := fmt.Sprintf("HTTP %d", resp.StatusCode)
	if text != "" && resp.StatusCode >= 300 {
		message += ": " + text[:min(len(text), 500)]
	}
	switch code := resp.StatusCode; {
	case code == http.StatusAccepted, async && code >= 200 && code < 300:
		return answer{kind: accepted}
	case code >= 200 && code < 300:
		return answer{kind: succeeded}
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return answer{kind: throttled, message: message, retryAfter: retryAfter(resp)}
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code >= 500:
		return answer{kind: failed, retryable: true, timeout: code == http.StatusGatewayTimeout, message: message}
	default:
		return answer{kind: failed, message: message}
	}
}

// retryAfter reads seconds or a date, as RFC 9110 allows both, and fractions of seconds, which some send.
func retryAfter(resp *http.Response) time.Duration {
	v := resp.Header.Get("Retry-After")
	if s, err := strconv.ParseFloat(v, 64); err == nil && s >= 0 && s < 86400 {
		return time.Duration(s * float64(time.Second))
	}
	if at, err := http.ParseTime(v); err == nil {
		return time.Until(at)
	}
	return 0
}
