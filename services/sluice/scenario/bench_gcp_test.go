package scenario_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"cloud.google.com/go/firestore"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/gcpbus"
	"sluice.dev/pkg/event"
	"sluice.dev/pkg/gcp"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/pkg/planner"
	"sluice.dev/pkg/preflight"
	"sluice.dev/pkg/serve"
	"sluice.dev/pkg/state/firestorestate"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/completion-tracker/tracker"
	"sluice.dev/services/dispatcher/dispatch"
	"sluice.dev/services/phase-gate/gate"
	"sluice.dev/services/sluice/emulated"
	"sluice.dev/services/sluice/platform"
)

// trio is the three services in this process, each with drivers of its own, so that these can be counted.
type trio struct {
	drivers [3]*gcp.Drivers // dispatcher, tracker, gate
	bus     *gcpbus.Bus     // the benchmark's own
	stop    context.CancelFunc
	done    sync.WaitGroup
}

func newTrio(b *testing.B, p *backfill.Pipeline) *trio {
	b.Helper()
	if err := emulated.Require(); err != nil {
		b.Skip("no emulators: run make bench-gcp")
	}
	project := os.Getenv("SLUICE_PROJECT_ID") // the BigQuery emulator knows no other
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	t := &trio{}
	for i := range t.drivers {
		d, err := gcp.Open(b.Context(), serve.Config{ProjectID: project, Bus: "gcp", State: "firestore", Warehouse: "bigquery", Journal: "sluice.backfill_events"}, log)
		if err != nil {
			b.Fatal(err)
		}
		t.drivers[i] = d
	}
	var err error
	if t.bus, err = gcpbus.Open(b.Context(), project, log); err != nil {
		b.Fatal(err)
	}
	pipelines := map[string]*backfill.Pipeline{p.Name: p}
	if err := t.bus.Create(b.Context(), gcpbus.Topology{}, []string{event.TopicEvents}, emulated.Subscriptions(pipelines)...); err != nil {
		b.Fatal(err)
	}
	var ctx context.Context
	ctx, t.stop = context.WithCancel(context.Background())
	d := dispatch.New(dispatch.Options{
		Store: t.drivers[0].State, Bus: t.drivers[0].Bus, Before: &preflight.Preflight{Planner: &planner.Planner{Pipelines: pipelines, Warehouse: t.drivers[0].Warehouse}},
		Caller: dispatch.NewCaller(nil), Log: log, Now: time.Now, Holder: "bench", LeaseTTL: 10 * time.Second, Tick: 500 * time.Millisecond, Grace: time.Second,
	})
	tr := tracker.New(t.drivers[1].State, t.drivers[1].Bus, pipelines, nil, log, time.Now)
	g := gate.New(t.drivers[2].State, t.drivers[2].Bus, gate.Checks{Source: t.drivers[2].Warehouse}, nil, log, time.Now)
	receive := func(i int, consumer, topic string, h bus.Handler) {
		t.done.Go(func() {
			if err := t.drivers[i].Bus.Receive(ctx, bus.Subscription{Consumer: consumer, Topic: topic}, h); err != nil {
				b.Error(err)
			}
		})
	}
	for topic, h := range d.Handlers() {
		receive(0, dispatch.Name, topic, h)
	}
	receive(1, tracker.Name, event.TopicCompletions, tr.Handle(event.TopicCompletions))
	receive(2, gate.Name, event.TopicPhaseCompletions, g.Handle)
	t.done.Go(func() {
		if err := d.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(func() {
		t.stop()
		t.done.Wait()
		for _, d := range t.drivers {
			_ = d.Close()
		}
		_ = t.bus.Close()
	})
	return t
}

func (t *trio) counts() (reads, writes, messages, queries int64) {
	for _, d := range t.drivers {
		r, w := d.State.Counts()
		reads, writes, messages, queries = reads+r, writes+w, messages+d.Bus.Published(), queries+d.Warehouse.Queries()
	}
	return reads, writes, messages, queries
}

// The three services over Google's emulators and the BigQuery emulator, driving processors that answer at once.
func BenchmarkGCPRun(b *testing.B) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprint(t, "\ndates\truns\tseconds\truns/s\tgate p50 ms\tgate p99 ms\treads/run\twrites/run\tmessages/run\tqueries\t\n")
	for _, n := range []int{30, 120} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				benchGCP(b, t, n)
			}
		})
	}
	if err := t.Flush(); err != nil {
		b.Fatal(err)
	}
}

func benchGCP(b *testing.B, t *tabwriter.Writer, n int) {
	server := newInstantServer(b)
	text := strings.Replace(instant(server.URL, []int{32, 48, 32, 32}), "calendar: {file: dates.csv, date: game_date, season: season}}",
		"calendar: {table: nba_reference.nba_schedule, date: game_date, season: season}}\n"+
			"history: {table: nba_reference.processor_run_history, processor: processor_name, date: data_date, phase: phase, status: status, succeeded: [success]}", 1)
	p, err := pipeline.Parse("bench.yaml", []byte(text), nil)
	if err != nil {
		b.Fatal(err)
	}
	cal, err := platform.Calendar()
	if err != nil {
		b.Fatal(err)
	}
	if emulated.Require() == nil {
		if err := emulated.CreateTables(b.Context(), os.Getenv("SLUICE_PROJECT_ID"), "sluice.backfill_events", p, cal); err != nil {
			b.Fatal(err)
		}
	}
	s := newTrio(b, p)
	id := fmt.Sprintf("bench-%d-%d", n, time.Now().UnixNano())
	began := time.Now()
	m := &pb.BackfillRequested{BackfillId: id, Pipeline: "nba", Dates: &pb.DateSelection{Range: &pb.DateRange{Start: cal.At(0).Date.String(), End: cal.At(n - 1).Date.String()}}}
	if err := s.bus.Publish(b.Context(), event.TopicRequests, event.New(event.TypeRequested, "//bench", id, began, m)); err != nil {
		b.Fatal(err)
	}
	eventually(b, 5*time.Minute, "the backfill completes", func() bool {
		time.Sleep(200 * time.Millisecond)
		bf, err := s.drivers[0].State.Backfill(b.Context(), id)
		if err == nil && bf.State.Ended() && bf.State != backfill.StateCompleted {
			b.Fatalf("it ended %s: %v", bf.State, bf.Faults)
		}
		return err == nil && bf.State == backfill.StateCompleted && bf.Lease.Holder == "" // and its dates are free
	})
	reads, writes, messages, queries := s.counts()
	var end time.Time
	var lag []time.Duration
	for c, x := range server.cells {
		if x.last.After(end) {
			end = x.last
		}
		if c.Phase == "phase_2" { // waits for nothing but phase 1 of its date
			lag = append(lag, x.first.Sub(server.cells[backfill.Cell{Date: c.Date, Phase: "phase_1"}].last))
		}
	}
	slices.Sort(lag)
	took, runs := end.Sub(began).Seconds(), float64(server.runs)
	if server.runs != n*52 || len(lag) != n {
		b.Fatalf("%d runs and %d gates", server.runs, len(lag))
	}
	quantile := func(q float64) float64 { return lag[int(q*float64(len(lag)-1))].Seconds() * 1000 }
	b.ReportMetric(runs/took, "runs/s")
	b.ReportMetric(float64(reads)/runs, "reads/run")
	b.ReportMetric(float64(writes)/runs, "writes/run")
	_, _ = fmt.Fprintf(t, "%d\t%d\t%.1f\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t%.2f\t%d\t\n", n, server.runs, took, runs/took,
		quantile(0.5), quantile(0.99), float64(reads)/runs, float64(writes)/runs, float64(messages)/runs, queries)
}

// 21 completions on one date at once, on 100 dates, from four clients: as merges, which is what the tracker does,
// and as one transaction for each completion, which is what it does not do. The second is cut to ten dates, as
// all hundred would take minutes.
func BenchmarkGCPBurst(b *testing.B) {
	if err := emulated.Require(); err != nil {
		b.Skip("no emulators: run make bench-gcp")
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprint(t, "\n21 completions at once\tdates\tcompletions/s\tp50 ms\tp99 ms\terrors\t\n")
	for range b.N {
		burst(b, t, "the tracker's merges", 100, throughTrackers(b, 100))
		burst(b, t, "a transaction each", 10, transactions(b))
	}
	if err := t.Flush(); err != nil {
		b.Fatal(err)
	}
}

// burst reports 21 processors of a date at once, one date after the other.
func burst(b *testing.B, t *tabwriter.Writer, name string, dates int, report func(date backfill.Date, i int) error) {
	b.Helper()
	var mu sync.Mutex
	var took []time.Duration
	var errs atomic.Int64
	began := time.Now()
	for d := range dates {
		var wg sync.WaitGroup
		for i := range 21 {
			wg.Go(func() {
				at := time.Now()
				if err := report(burstFirst+backfill.Date(d), i); err != nil {
					errs.Add(1)
				}
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(at))
			})
		}
		wg.Wait()
	}
	all := time.Since(began).Seconds()
	slices.Sort(took)
	quantile := func(q float64) float64 { return took[int(q*float64(len(took)-1))].Seconds() * 1000 }
	_, _ = fmt.Fprintf(t, "%s\t%d\t%.0f\t%.0f\t%.0f\t%d\t\n", name, dates, float64(len(took))/all, quantile(0.5), quantile(0.99), errs.Load())
}

var burstFirst = backfill.DateOf(time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC))

// throughTrackers has four trackers with drivers of their own take the completions of a backfill of so many dates.
func throughTrackers(b *testing.B, dates int) func(backfill.Date, int) error {
	b.Helper()
	ctx, project := b.Context(), os.Getenv("SLUICE_PROJECT_ID")
	log := slog.New(slog.DiscardHandler)
	messages, err := gcpbus.Open(ctx, project, log)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = messages.Close() })
	if err := messages.Create(ctx, gcpbus.Topology{}, []string{event.TopicEvents, event.TopicPhaseCompletions}); err != nil {
		b.Fatal(err)
	}
	p := &backfill.Pipeline{Name: "burst", Phases: []backfill.Phase{{ID: "one"}}}
	var records []backfill.Record
	var days []backfill.Partition
	for i := range 21 {
		p.Phases[0].Processors = append(p.Phases[0].Processors, backfill.Processor{Name: fmt.Sprint("p", i), Timeout: time.Hour, Attempts: 3})
	}
	for d := range dates {
		days = append(days, backfill.Partition{Date: burstFirst + backfill.Date(d), Season: "s"})
		records = append(records, backfill.NewRecord(days[d].Date, "s"))
	}
	id := fmt.Sprint("burst-", time.Now().UnixNano())
	var trackers []*tracker.Tracker
	for i := range 4 {
		s, err := firestorestate.Open(ctx, project, "")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() })
		trackers = append(trackers, tracker.New(s, messages, nil, nil, log, time.Now))
		if i > 0 {
			continue
		}
		if err := s.PutPipeline(ctx, "v", p); err != nil {
			b.Fatal(err)
		}
		bf := &backfill.Backfill{
			ID: id, State: backfill.StateActive, Version: "v", CreatedAt: time.Now(), Dates: backfill.NewCalendar(days),
			Request: backfill.Request{ID: id, Pipeline: "burst", Phases: []string{"one"}},
		}
		if _, _, err := s.CreateBackfill(ctx, bf); err != nil {
			b.Fatal(err)
		}
		if err := s.CreateDates(ctx, id, records); err != nil {
			b.Fatal(err)
		}
	}
	return func(date backfill.Date, i int) error {
		m := &pb.ProcessorCompleted{BackfillId: id, Pipeline: "burst", Date: date.String(), Phase: "one", Processor: fmt.Sprint("p", i), Attempt: 1, Status: "succeeded"}
		e := event.New(event.TypeCompleted, "//bench", id, time.Now(), m, date.String(), m.GetProcessor())
		return trackers[i%4].Handle(event.TopicCompletions)(ctx, e)
	}
}

// transactions counts each completion in a read-modify-write of the date's document.
func transactions(b *testing.B) func(backfill.Date, int) error {
	b.Helper()
	var clients []*firestore.Client
	for range 4 {
		c, err := firestore.NewClient(b.Context(), os.Getenv("SLUICE_PROJECT_ID"))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		clients = append(clients, c)
	}
	collection := fmt.Sprint("counted-", time.Now().UnixNano())
	return func(date backfill.Date, i int) error {
		c := clients[i%4]
		doc := c.Doc(collection + "/" + date.String())
		return c.RunTransaction(b.Context(), func(_ context.Context, tx *firestore.Transaction) error {
			n := int64(0)
			if snap, err := tx.Get(doc); err == nil {
				n, _ = snap.Data()["done"].(int64)
			} else if grpcstatus.Code(err) != codes.NotFound {
				return err
			}
			return tx.Set(doc, map[string]any{"done": n + 1, fmt.Sprint("p", i): "succeeded"}, firestore.MergeAll)
		})
	}
}
