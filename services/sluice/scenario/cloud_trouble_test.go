package scenario_test

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"sluice.dev/services/sluice/emulated"
	"sluice.dev/services/sluice/platform"
)

func TestCloudSurvivesKill9(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 7, Faults: platform.DefaultFaults()}})
	const n = 30
	c.submit("crashes", n)
	rng := rand.New(rand.NewPCG(9, 9))
	var ends []time.Time
	for i := range 10 {
		c.finished(min(n*52-100, len(c.platform.Finished())+20+rng.IntN(120)))
		name := emulated.Services[(i+rng.IntN(2))%3]
		ends = append(ends, time.Now())
		c.fleet.Kill(instance(name, 0))
		c.startService(name, 0)
	}
	c.completes("crashes", n)
	assertOnlyUnknownAgain(t, c.platform, ends)
}

// held is how long the news of a success may lie with a process that was killed: Pub/Sub waits for the lease of its
// message, which is extended by 15 s at a time, and the next process for the backfill's lease of 10 s.
const held = 30 * time.Second

// assertOnlyUnknownAgain checks that what was called again after it had succeeded was called before the news of that
// could be back from a process that was killed around then, and that this is rare.
func assertOnlyUnknownAgain(t *testing.T, p *platform.Platform, ends []time.Time) {
	t.Helper()
	all := calledAgain(p, ends, moment)
	for _, a := range all {
		near := func(end time.Time) bool { return end.Sub(a.done).Abs() < held }
		if a.at.Sub(a.done) > held || !slices.ContainsFunc(ends, near) {
			t.Errorf("%s was called %s after it had succeeded, which was on record by then", a.key, a.at.Sub(a.done))
		}
	}
	if n := len(p.Calls()); len(all)*50 > n {
		t.Errorf("%d of %d calls were of what had succeeded", len(all), n)
	}
}

// gateway passes connections on until it is cut.
type gateway struct {
	target   string
	listener net.Listener
	mu       sync.Mutex
	off      bool
	open     map[net.Conn]bool
}

func newGateway(t *testing.T, target string) *gateway {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{target: target, listener: l, open: map[net.Conn]bool{}}
	t.Cleanup(func() { _ = l.Close(); g.set(true) })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go g.pass(from)
		}
	}()
	return g
}

func (g *gateway) address() string { return g.listener.Addr().String() }

func (g *gateway) pass(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("tcp", g.target)
	if err != nil {
		return
	}
	defer to.Close()
	g.mu.Lock()
	if g.off {
		g.mu.Unlock()
		return
	}
	g.open[from], g.open[to] = true, true
	g.mu.Unlock()
	go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
	_, _ = io.Copy(from, to)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, from)
	delete(g.open, to)
}

// set cuts all connections and refuses new ones, or lets them pass again.
func (g *gateway) set(off bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.off = off
	for c := range g.open {
		if off {
			_ = c.Close()
		}
	}
}

func TestCloudSurvivesOutages(t *testing.T) {
	t.Parallel()
	firestore, pubsub := newGateway(t, os.Getenv("FIRESTORE_EMULATOR_HOST")), newGateway(t, os.Getenv("PUBSUB_EMULATOR_HOST"))
	c := newCloud(t, cloudOptions{
		Options: platform.Options{Speed: 100, Seed: 12, Faults: platform.DefaultFaults()},
		env:     []string{"FIRESTORE_EMULATOR_HOST=" + firestore.address(), "PUBSUB_EMULATOR_HOST=" + pubsub.address()},
	})
	const n = 30
	c.submit("outages", n)
	for i, g := range []*gateway{firestore, pubsub} {
		c.finished(n * 52 * (i + 1) / 4)
		g.set(true)
		time.Sleep(20 * time.Second) // the outage itself
		g.set(false)
	}
	c.completes("outages", n)
	assertNoneAgain(t, c.platform, nil, 0)
}
