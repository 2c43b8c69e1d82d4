package scenario_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus/membus"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/services/sluice/local"
	"sluice.dev/services/sluice/platform"
)

// The bus duplicates, delays, reorders and redelivers; the end is the same and no gate opens early.
func TestABusAsBadAsItMayBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Speed: 200, Seed: 11, Faults: platform.DefaultFaults()})
	chaos := membus.NewChaos(11)
	chaos.Duplicate, chaos.Delay, chaos.MaxDelay, chaos.Redeliver = 0.2, 0.5, 50*time.Millisecond, 0.1
	p, err := pipeline.Load(w.pipeline, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := local.Open(t.Context(), local.Options{
		DataDir: filepath.Join(w.dir, "data"), Pipelines: map[string]*backfill.Pipeline{p.Name: p}, Log: slog.New(slog.DiscardHandler), Chaos: chaos,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx, listener) }()
	const n = 12
	w.submit("chaos", n)
	if a := w.sluice("watch", "chaos"); a.code != 0 {
		t.Errorf("watch: exit %d\n%s%s", a.code, a.out, a.err)
	}
	for _, a := range calledAgain(w.platform, nil, 0) {
		part := strings.Split(a.key, "/")
		t.Log(w.told("chaos", part[1], part[2], part[3]))
		for _, c := range w.platform.Calls() {
			if strings.HasPrefix(c.Key, strings.Join(part[:4], "/")) {
				t.Logf("%+v", c)
			}
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	assertAllDone(t, w.platform, w.dates(n))
	assertOrder(t, w.platform, w.dates(n))
	assertNoneAgain(t, w.platform, nil, 0)
}
