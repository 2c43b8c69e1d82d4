package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/event"
)

// journal publishes what the dispatcher does, in the background, so that neither leases nor calls wait for it, and
// again until it is durable.
type journal struct {
	bus bus.Publisher
	log *slog.Logger

	more    chan struct{} // holds a token while lines wait
	sending sync.Mutex
	mu      sync.Mutex
	lines   []*event.Event
}

// maxLines bounds what may wait during an outage, which is about an hour of the largest pipelines. What comes then
// is lost, and said to be.
const maxLines = 200_000

func (j *journal) add(events ...*event.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lines)+len(events) > maxLines {
		j.log.Error("too many lines of the journal wait: these are lost", "events", len(events))
		return
	}
	j.lines = append(j.lines, events...)
	select {
	case j.more <- struct{}{}:
	default:
	}
}

// run publishes until ctx ends.
func (j *journal) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.more:
		}
		for wait := 100 * time.Millisecond; !j.send(ctx) && ctx.Err() == nil; wait = min(2*wait, 10*time.Second) {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
	}
}

// send publishes what waits, and keeps it when it cannot.
func (j *journal) send(ctx context.Context) bool {
	j.sending.Lock()
	defer j.sending.Unlock()
	j.mu.Lock()
	lines := j.lines
	j.mu.Unlock()
	for len(lines) > 0 {
		n := min(len(lines), 500)
		if err := j.bus.Publish(ctx, event.TopicEvents, lines[:n]...); err != nil {
			if ctx.Err() == nil {
				j.log.WarnContext(ctx, "cannot write the journal: it is tried again", "error", err, "events", len(lines))
			}
			return false
		}
		lines = lines[n:]
		j.mu.Lock()
		j.lines = j.lines[n:]
		j.mu.Unlock()
	}
	return true
}

// flush publishes what waits, once, within two seconds.
func (j *journal) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if !j.send(ctx) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.log.ErrorContext(ctx, "lines of the journal are lost", "events", len(j.lines))
	}
}
