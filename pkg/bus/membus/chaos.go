package membus

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Chaos makes the bus as unpleasant as its contract allows. The shares lie between 0 and 1.
type Chaos struct {
	Duplicate float64       // events delivered twice
	Delay     float64       // events held back, which also reorders them
	MaxDelay  time.Duration // by up to this long
	Redeliver float64       // acknowledgements that get lost

	mu  sync.Mutex
	rng *rand.Rand
}

// NewChaos is a chaos that does the same for the same seed and order of calls.
func NewChaos(seed uint64) *Chaos {
	return &Chaos{rng: rand.New(rand.NewPCG(seed, seed))}
}

func (c *Chaos) roll(share float64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.Float64() < share
}

// scatter takes over the delivery of d when it is to be delayed.
func (c *Chaos) scatter(q *queue, d *delivery) bool {
	if c == nil {
		return false
	}
	if c.roll(c.Duplicate) {
		d.entry.mu.Lock()
		d.entry.waiting++
		d.entry.mu.Unlock()
		twin := *d
		c.later(q, &twin)
	}
	if !c.roll(c.Delay) {
		return false
	}
	c.later(q, d)
	return true
}

func (c *Chaos) later(q *queue, d *delivery) {
	c.mu.Lock()
	wait := time.Duration(c.rng.Int64N(int64(c.MaxDelay) + 1))
	c.mu.Unlock()
	time.AfterFunc(wait, func() { q.push(d) })
}

func (c *Chaos) forgetAck() bool { return c != nil && c.roll(c.Redeliver) }
