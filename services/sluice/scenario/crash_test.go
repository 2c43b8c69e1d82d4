package scenario_test

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"sluice.dev/services/sluice/platform"
)

// moment is how long the record of a success may lag behind the success on a busy machine.
const moment = 3 * time.Second

func TestSurvivesKill9(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Speed: 200, Seed: 7, Faults: platform.DefaultFaults()})
	const n = 30
	dates := w.dates(n)
	p := w.start()
	w.submit("crashes", n)
	rng := rand.New(rand.NewPCG(7, 7))
	var ends []time.Time
	for len(ends) < 5 {
		// at a random moment, but one that is well inside the run
		w.finished(min(n*52-60, len(w.platform.Finished())+50+rng.IntN(200)))
		ends = append(ends, time.Now())
		p.kill()
		p = w.start()
	}
	if a := w.sluice("watch", "crashes"); a.code != 0 {
		t.Fatalf("watch: exit %d\n%s%s\n%s", a.code, a.out, a.err, w.story("crashes"))
	}
	assertAllDone(t, w.platform, dates)
	assertOrder(t, w.platform, dates)
	assertNoneAgain(t, w.platform, ends, moment)
}

func TestStopsWithinTheGrace(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, platform.Options{Speed: 200, Seed: 3})
			const n = 10
			p := w.start()
			w.submit("stops", n)
			w.finished(n * 20)
			asked := time.Now()
			took, code := p.stop(signal)
			if code != 0 || took > 8*time.Second {
				t.Fatalf("exit %d after %s\n%s", code, took, p.log.String())
			}
			if done := len(w.platform.Finished()); done == n*52 {
				t.Error("it stopped when all was done")
			}
			for _, c := range w.platform.Calls() {
				if late := c.At.Sub(asked); late > 200*time.Millisecond {
					t.Errorf("%s was called %s after the signal", c.Key, late)
				}
			}
			ended := time.Now()
			w.start()
			if a := w.sluice("watch", "stops"); a.code != 0 {
				t.Fatalf("watch: exit %d\n%s%s\n%s", a.code, a.out, a.err, w.story("stops"))
			}
			assertAllDone(t, w.platform, w.dates(n))
			assertOrder(t, w.platform, w.dates(n))
			assertNoneAgain(t, w.platform, []time.Time{ended}, 0) // a stop in good order loses nothing
		})
	}
}

// A call that hangs is given the grace and then cancelled; the run is repeated after the restart.
func TestStopsAlthoughACallHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Speed: 1, Seed: 3}) // a scrape takes 20 s
	p := w.start()
	w.submit("hangs", 2)
	eventually(t, 10*time.Second, "calls are in flight", func() bool { return w.platform.InFlight() > 5 })
	if took, code := p.stop(syscall.SIGTERM); code != 0 || took > 8*time.Second || took < time.Second {
		t.Errorf("exit %d after %s: calls in flight get their grace, and no more", code, took)
	}
	eventually(t, time.Second, "no call is in flight", func() bool { return w.platform.InFlight() == 0 })
}

func TestDataDirectoryIsLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{})
	w.start()
	a := w.sluice("local", "--listen", "127.0.0.1:0", "--data", w.dir+"/data", "--pipeline", w.pipeline)
	if a.code != 1 || !contains(a.err, "in use by another sluice", "--data") {
		t.Errorf("exit %d: %s", a.code, a.err)
	}
}
