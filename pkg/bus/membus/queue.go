package membus

import (
	"context"
	"sync"
)

// queue is an unbounded FIFO. Bounding it would let a handler that publishes wait for itself.
type queue struct {
	mu    sync.Mutex
	items []*delivery
	head  int
	ready chan struct{} // holds a token while there may be something to take
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

func (q *queue) push(d *delivery) {
	q.mu.Lock()
	q.items = append(q.items, d)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *queue) take() (d *delivery, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.items) {
		return nil, false
	}
	d = q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if q.head > 1024 && q.head*2 > len(q.items) {
		q.items = append(q.items[:0:0], q.items[q.head:]...)
		q.head = 0
	}
	return d, q.head < len(q.items)
}

// pop waits for the next delivery, or for the context's end.
func (q *queue) pop(ctx context.Context) (*delivery, bool) {
	for {
		if ctx.Err() != nil {
			q.signal() // another worker, or another Receive, may be waiting for this token
			return nil, false
		}
		d, more := q.take()
		if more {
			q.signal()
		}
		if d != nil {
			return d, true
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
		}
	}
}
