// Package platform is an example of what Sluice drives: HTTP services that behave like the NBA platform,
// with its latencies, its outside APIs and their limits, its own completion messages, and random trouble
// under a seed. It writes the tables that such a platform would write.
package platform

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"sluice.dev/pkg/backfill"
)

// Faults are shares of attempts, between 0 and 1.
type Faults struct {
	Fail     float64 // answered 500, or reported as failed
	Reset    float64 // connection closed without an answer
	Hang     float64 // no answer until the caller gives up
	Throttle float64 // answered 429 although the limit was kept
}

// DefaultFaults make about one attempt in a hundred fail.
func DefaultFaults() Faults { return Faults{Fail: 0.008, Reset: 0.0015, Hang: 0.0002, Throttle: 0.001} }

// Options configures a platform.
type Options struct {
	Speed  float64 // how many times faster than the real one; 0 answers at once
	Seed   uint64
	Faults Faults
	// Report delivers a completion message to a topic and returns once it was taken.
	Report func(ctx context.Context, topic string, body []byte) error
	Tables *Tables // nil writes no tables
	// Mute is a phase whose processors report nothing: only the history says how they ended.
	Mute string
	Log  *slog.Logger
	// Broken decides, when set, whether a processor fails whatever else happens; Silent, whether it never reports.
	Broken func(processor, date string) bool
	Silent func(processor, date string) bool
}

// Platform is the example platform.
type Platform struct {
	opts     Options
	outside  map[string]*rate.Limiter
	ctx      context.Context // ends with the platform
	stop     context.CancelFunc
	work     sync.WaitGroup
	mu       sync.Mutex
	rng      *rand.Rand
	calls    []Call
	finished []Finished
	inFlight int
}

// Finished is a processor's work that succeeded, at the time when its output was there.
type Finished struct {
	Processor, Date string
	At              time.Time
}

// Call is one request as the platform saw it, and how the work ended.
type Call struct {
	Path       string
	Key        string // Idempotency-Key
	Date       string
	Processors []string
	At         time.Time
	Answered   time.Time
	Status     int // 0 for no answer
}

// New makes a platform. Close stops its work.
func New(o Options) *Platform {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Platform{
		opts: o, ctx: ctx, stop: stop, rng: rand.New(rand.NewPCG(o.Seed, 0x9e3779b97f4a7c15)),
		outside: map[string]*rate.Limiter{},
	}
	if o.Speed > 0 { // a little more generous than what callers are told, as real ones are
		p.outside["nbac"] = rate.NewLimiter(rate.Limit(5*1.2*o.Speed), 10+int(o.Speed))
		p.outside["nbap"] = p.outside["nbac"]
		p.outside["bdl_"] = rate.NewLimiter(rate.Limit(10*1.2*o.Speed), 20+int(o.Speed))
	}
	return p
}

// Close stops all work and waits for it.
func (p *Platform) Close() {
	p.stop()
	p.work.Wait()
}

// Calls lists what was asked of the platform so far, in the order of arrival.
func (p *Platform) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Call(nil), p.calls...)
}

// Finished lists the work that succeeded so far.
func (p *Platform) Finished() []Finished {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Finished(nil), p.finished...)
}

func (p *Platform) finish(processor, date string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished = append(p.finished, Finished{processor, date, time.Now()})
}

// InFlight counts requests that have not been answered.
func (p *Platform) InFlight() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inFlight
}

// Handler serves the platform's services.
func (p *Platform) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("POST /scrape", p.scrape)
	mux.HandleFunc("POST /process", p.process)
	mux.HandleFunc("POST /process-date", p.processDate)
	mux.HandleFunc("POST /start", p.start)
	return mux
}

// trouble is what befalls one attempt.
type trouble int

const (
	fine trouble = iota
	fail
	reset
	hang
	throttle
)

func (p *Platform) roll() trouble {
	p.mu.Lock()
	u := p.rng.Float64()
	p.mu.Unlock()
	for _, t := range []struct {
		share float64
		what  trouble
	}{{p.opts.Faults.Fail, fail}, {p.opts.Faults.Reset, reset}, {p.opts.Faults.Hang, hang}, {p.opts.Faults.Throttle, throttle}} {
		if u < t.share {
			return t.what
		}
		u -= t.share
	}
	return fine
}

// lognormal draws a duration with the median and spread that the reference workload gives.
func (p *Platform) lognormal(median, sigma float64) time.Duration {
	if p.opts.Speed <= 0 {
		return 0
	}
	p.mu.Lock()
	z := p.rng.NormFloat64()
	p.mu.Unlock()
	return time.Duration(median * math.Exp(sigma*z) / p.opts.Speed * float64(time.Second))
}

func (p *Platform) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	case <-p.ctx.Done():
		return false
	}
}

// Scale is the pipeline for a platform that runs speed times faster: limits per second grow, waits shrink.
func Scale(p *backfill.Pipeline, speed float64) *backfill.Pipeline {
	out := *p
	shrink := func(d time.Duration, least time.Duration) time.Duration {
		return max(least, time.Duration(float64(d)/speed))
	}
	out.Limiters = map[string]backfill.Limiter{}
	for name, l := range p.Limiters {
		l.Rate *= speed
		l.Burst = max(l.Burst, int(l.Rate/20))
		out.Limiters[name] = l
	}
	out.Phases = append([]backfill.Phase(nil), p.Phases...)
	for i := range out.Phases {
		procs := append([]backfill.Processor(nil), out.Phases[i].Processors...)
		for j := range procs {
			procs[j].Expect.P50 = shrink(procs[j].Expect.P50, 0)
			procs[j].Expect.P90 = shrink(procs[j].Expect.P90, 0)
			procs[j].Timeout = shrink(procs[j].Timeout, 2*time.Second)
			procs[j].Backoff.Initial = shrink(procs[j].Backoff.Initial, 10*time.Millisecond)
			procs[j].Backoff.Max = shrink(procs[j].Backoff.Max, 100*time.Millisecond)
		}
		out.Phases[i].Processors = procs
		if h := out.Phases[i].Trigger.HTTP; h != nil && h.Timeout > 0 {
			scaled := *h
			scaled.Timeout = shrink(h.Timeout, 2*time.Second)
			out.Phases[i].Trigger.HTTP = &scaled
		}
	}
	return &out
}
