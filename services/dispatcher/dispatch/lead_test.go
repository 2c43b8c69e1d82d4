package dispatch

import (
	"context"
	"fmt"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/state"
)

func small(name string) *backfill.Pipeline {
	return &backfill.Pipeline{Name: name, Phases: []backfill.Phase{{ID: "one", Processors: []backfill.Processor{{Name: "a"}}}}}
}

// Limiters are kept in the memory of the instance that drives, so one instance drives all of a pipeline's backfills,
// even when two began with one each; another pipeline's are for anybody.
func TestOneInstanceDrivesAPipeline(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	now := time.Now()
	for i, pipeline := range []string{"p", "p", "p", "q"} {
		active(t, s, fmt.Sprint("b", i), small(pipeline), now.Add(time.Duration(i)*time.Second), backfill.Date(19700+i))
	}
	clock := func() time.Time { return now }
	one, two := New(options(s, "one", clock)), New(options(s, "two", clock))
	for id, d := range map[string]*Dispatcher{"b0": one, "b1": two, "b3": two} { // as when both begin at once
		if err := d.take(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		two.adopt(t.Context())
		one.adopt(t.Context())
	}
	for i, want := range []string{"one", "one", "one", "two"} {
		b, err := s.Backfill(t.Context(), fmt.Sprint("b", i))
		if err != nil || b.Lease.Holder != want {
			t.Errorf("%s is driven by %q, not %q (%v)", b.ID, b.Lease.Holder, want, err)
		}
		if (one.drive(b.ID) != nil) != (want == "one") || (two.drive(b.ID) != nil) != (want == "two") {
			t.Errorf("%s: the instances do not know who drives it", b.ID)
		}
	}
	now = now.Add(2 * time.Minute) // one is gone
	for _, dr := range two.drives() {
		two.renew(t.Context(), dr)
	}
	two.adopt(t.Context())
	for i := range 4 {
		if b, err := s.Backfill(t.Context(), fmt.Sprint("b", i)); err != nil || b.Lease.Holder != "two" {
			t.Errorf("%s is driven by %q (%v)", b.ID, b.Lease.Holder, err)
		}
	}
}

// slow is a store that does not say which dates are due before it is let.
type slow struct {
	state.Store
	release, asked, renewed chan struct{}
}

func (s slow) Due(ctx context.Context, id string, now time.Time, limit int) ([]backfill.Date, error) {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-s.release
	return s.Store.Due(ctx, id, now, limit)
}

func (s slow) Acquire(ctx context.Context, id, holder string, now time.Time, ttl time.Duration) (backfill.Lease, error) {
	lease, err := s.Store.Acquire(ctx, id, holder, now, ttl)
	select {
	case s.renewed <- struct{}{}:
	case <-s.release:
	default:
	}
	return lease, err
}

// However long work takes, the lease is renewed beside it.
func TestALeaseDoesNotLapseWhileThereIsMuchToDo(t *testing.T) {
	t.Parallel()
	store := openStore(t)
	active(t, store, "b", small("p"), time.Now(), 19700)
	s := slow{store, make(chan struct{}), make(chan struct{}), make(chan struct{})}
	o := options(s, "me", time.Now)
	o.LeaseTTL, o.Tick = 30*time.Millisecond, time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- New(o).Run(ctx) }()
	<-s.asked // from now on, nothing but renewing goes on
	for n := range 3 {
		select {
		case <-s.renewed:
		case <-time.After(10 * time.Second):
			t.Fatalf("renewed %d times", n)
		}
	}
	stop()
	close(s.release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
