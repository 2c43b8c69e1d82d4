package backfill

import (
	"math"
	"time"
)

// bucket is a limiter at work: a token bucket and a cap on calls in flight, both optional, and a pause
// that the outside API asked for with Retry-After.
type bucket struct {
	Limiter
	tokens      float64
	filledAt    time.Time
	inFlight    int
	pausedUntil time.Time
}

func newBucket(l Limiter) *bucket {
	return &bucket{Limiter: l, tokens: float64(max(1, l.Burst))}
}

func (b *bucket) fill(now time.Time) {
	if b.Rate > 0 && !b.filledAt.IsZero() && now.After(b.filledAt) {
		b.tokens = math.Min(float64(max(1, b.Burst)), b.tokens+now.Sub(b.filledAt).Seconds()*b.Rate)
	}
	if now.After(b.filledAt) {
		b.filledAt = now
	}
}

// epsilon forgives the rounding of nanoseconds, so that waiting exactly as long as told is long enough.
const epsilon = 1e-6

// readyAt is when the next call may go: now, a later time, or never as long as calls in flight fill the cap.
func (b *bucket) readyAt(now time.Time) (at time.Time, ever bool) {
	if b.InFlight > 0 && b.inFlight >= b.InFlight {
		return time.Time{}, false
	}
	b.fill(now)
	at = now
	if b.Rate > 0 && b.tokens < 1-epsilon {
		at = now.Add(time.Duration(math.Ceil((1 - b.tokens) / b.Rate * float64(time.Second))))
	}
	if b.pausedUntil.After(at) {
		at = b.pausedUntil
	}
	return at, true
}

func (b *bucket) take() {
	b.inFlight++
	if b.Rate > 0 {
		b.tokens--
	}
}

// window is the adaptive limit on processors in flight: additive increase while answers are calm,
// multiplicative decrease on signs of overload (after TCP's congestion control, RFC 5681).
type window struct {
	ceiling  int
	size     float64
	halvedAt time.Time
}

func newWindow(ceiling int) window { return window{ceiling: ceiling, size: float64(ceiling)} }

func (w *window) limit() int { return int(w.size) }

// setCeiling changes the ceiling. A window that was fully open stays so.
func (w *window) setCeiling(ceiling int) {
	if open := w.limit() >= w.ceiling; open || w.size > float64(ceiling) {
		w.size = float64(ceiling)
	}
	w.ceiling = ceiling
}

// grow is called for every calm answer. A round trip of calm answers adds a tenth of the ceiling, so a
// halved window is back after five round trips, however large it is.
func (w *window) grow() {
	step := math.Max(1, float64(w.ceiling)/10)
	w.size = math.Min(float64(w.ceiling), w.size+step/w.size)
}

// halve is called for every sign of overload. Calls sent before the last halving tell nothing new.
func (w *window) halve(sentAt, now time.Time) {
	if !sentAt.After(w.halvedAt) {
		return
	}
	w.size = math.Max(1, w.size/2)
	w.halvedAt = now
}
