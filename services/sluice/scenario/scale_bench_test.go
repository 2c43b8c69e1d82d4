package scenario_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/pkg/pipeline"
	"sluice.dev/pkg/simulate"
)

// early is where the calendars of the benchmarks begin, so that 100,000 days fit.
const early = "1750-01-01"

// widePipeline is the pipeline of the scale tests with a long calendar.
func widePipeline(url string) string {
	return "name: wide\npartition: {column: day, calendar: {daily: {from: " + early + "}}}\n" + fmt.Sprintf(wide, url)[len("\nname: wide\npartition: {column: day, calendar: {daily: {from: 2010-01-01}}}\n"):]
}

// scaleRow is one size on one placement.
type scaleRow struct {
	runs  int
	took  time.Duration
	bytes float64 // of memory that the dates take
}

// BenchmarkScale shows whether time per run and memory per date grow with the number of dates.
func BenchmarkScale(b *testing.B) {
	for b.Loop() {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		_, _ = fmt.Fprint(w, "\n\tdates\truns\tseconds\tmicroseconds per run\tof 1,000 dates'\tkB per date\tof 1,000 dates'\t\n")
		for _, place := range []struct {
			name  string
			sizes []int
			run   func(*testing.B, int) scaleRow
		}{{"simulated", []int{1000, 10_000, 100_000}, simulateScale}, {"embedded", []int{1000, 10_000}, embeddedScale}} {
			var base scaleRow
			for _, n := range place.sizes {
				row := place.run(b, n)
				if base.runs == 0 {
					base = row
				}
				per, dates := row.took.Seconds()/float64(row.runs), float64(n)
				perBase := base.took.Seconds() / float64(base.runs)
				_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%.1f\t%.0f\t%.2f\t%.1f\t%.2f\t\n", place.name, n, row.runs, row.took.Seconds(), per*1e6, per/perBase,
					row.bytes/dates/1000, row.bytes/dates/(base.bytes/float64(place.sizes[0])))
				b.ReportMetric(per/perBase, fmt.Sprintf("%s-%d-time", place.name, n))
			}
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
	}
}

func simulateScale(b *testing.B, n int) scaleRow {
	b.Helper()
	p, err := pipeline.Parse("wide.yaml", []byte(widePipeline("http://x")), os.LookupEnv)
	if err != nil {
		b.Fatal(err)
	}
	parts := make([]backfill.Partition, n)
	records := make([]backfill.Record, n)
	for i := range parts {
		parts[i].Date = *p.Partition.DailyFrom + backfill.Date(i)
		records[i] = backfill.NewRecord(parts[i].Date, "")
	}
	cal := backfill.NewCalendar(parts)
	s := simulate.Setting{
		Backfill: &backfill.Backfill{ID: "wide", Calendar: cal, Dates: cal, Request: backfill.Request{Order: backfill.OrderOverlap}},
		Pipeline: p, Records: records, World: simulate.World{FailRate: 0.01, Durations: map[backfill.Ref]simulate.Spread{}},
	}
	for i := range p.Phases {
		for _, proc := range p.Phases[i].Processors {
			s.World.Durations[backfill.Ref{Phase: p.Phases[i].ID, Processor: proc.Name}] = simulate.Spread{Median: 5, Sigma: 0.4}
		}
	}
	runtime.GC()
	before, stop := heap(), make(chan struct{})
	var peak atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			select {
			case <-tick.C:
				peak.Store(max(peak.Load(), heap()))
			case <-stop:
				return
			}
		}
	}()
	began := time.Now()
	out := simulate.Run(s, 1)
	took := time.Since(began)
	close(stop)
	<-done
	if !out.Completed || out.Incomplete > 0 {
		b.Fatalf("%d dates: %+v", n, out)
	}
	return scaleRow{out.Attempts, took, float64(peak.Load()) - float64(before)}
}

// heap is the memory that objects take, garbage included.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func embeddedScale(b *testing.B, n int) scaleRow {
	b.Helper()
	var calls atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	defer server.Close()
	w := &world{t: b, dir: b.TempDir(), address: freeAddress(b)}
	w.pipeline = w.write("pipeline.yaml", widePipeline(server.URL))
	p := w.start()
	before := peakMemory(b, p.cmd.Process.Pid)
	first, err := backfill.ParseDate("1990-01-01")
	if err != nil {
		b.Fatal(err)
	}
	request := fmt.Sprintf(`{"backfill_id":"wide","pipeline":"wide","dates":{"range":{"start":%q,"end":%q}},"accept_gaps":[%q]}`,
		first, first+backfill.Date(n-1), fmt.Sprintf("%s..%s", first-60, first-1))
	began := time.Now()
	w.must("submit", "-f", w.write("wide.json", request))
	w.must("watch", "wide")
	took := time.Since(began)
	memory := peakMemory(b, p.cmd.Process.Pid) - before
	if s := w.status("wide"); s.Dates.Complete != n {
		b.Fatalf("%+v", s)
	}
	p.stop(syscall.SIGTERM)
	return scaleRow{int(calls.Load()), took, float64(memory) * 1e6}
}
