package scenario_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"sluice.dev/pkg/backfill"
	"sluice.dev/services/sluice/platform"
)

// instant is the reference workload with processors that answer at once: the 845 dates and the 52
// processors of NBA-4 with its needs and windows, limits in flight per phase, and no rates.
func instant(url string, limits []int) string {
	names := platform.Processors()
	var s strings.Builder
	_, _ = fmt.Fprintf(&s, "name: nba\npartition: {column: game_date, calendar: {file: dates.csv, date: game_date, season: season}}\n"+
		"defaults: {timeout: 30s, attempts: 5, backoff: {initial: 20ms, max: 200ms}}\nphases:\n")
	more := map[string]string{
		"upcoming_player_game_context": "needs: [upcoming_team_game_context], window: {phase: phase_2, days: 30}",
		"team_defense_zone_analysis":   "window: {phase: phase_3, games: 15, within: season}",
		"player_shot_zone_analysis":    "window: {phase: phase_3, games: 10, within: season}",
		"player_composite_factors":     "needs: [team_defense_zone_analysis, player_shot_zone_analysis]",
		"player_daily_cache":           "needs: [team_defense_zone_analysis, player_shot_zone_analysis], window: {phase: phase_3, games: 10, within: season}",
		"ml_feature_store_v2":          "needs: [player_composite_factors, player_daily_cache], window: {phase: phase_3, games: 10, within: season}",
	}
	for i, limit := range limits {
		_, _ = fmt.Fprintf(&s, "  - id: phase_%d\n    trigger: {http: {url: \"%s/phase_%d\", reply: sync, body: '{\"game_date\":\"{{.Date}}\"}'}}\n"+
			"    max_dates: 20\n    max_processors: %d\n    processors:\n", i+1, url, i+1, limit)
		for _, n := range names[i] {
			_, _ = fmt.Fprintf(&s, "      - {name: %s, %s}\n", n, more[n])
		}
	}
	return strings.ReplaceAll(s.String(), ", }", "}")
}

// seen is what the processors saw of a phase on a date.
type seen struct{ first, last time.Time }

// With NBA-4's own limits there are up to 570 calls in flight at once, and as they take no time, their
// latency is the queue for the two cores. The second row holds the first phase to 12 calls, which keeps the
// cores just as busy and shows what the gates add.
func BenchmarkNBA4Instant(b *testing.B) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprint(t, "\nin flight per phase\truns\tseconds\truns/s\tgate p50 ms\tgate p99 ms\tpeak MB\tCPU s\t\n")
	for _, limits := range [][]int{{210, 210, 100, 50}, {12, 48, 32, 32}} {
		b.Run(fmt.Sprint(limits), func(b *testing.B) {
			for range b.N {
				benchNBA4(b, t, limits)
			}
		})
	}
	if err := t.Flush(); err != nil {
		b.Fatal(err)
	}
}

// instantServer answers at once and remembers when it was asked what.
type instantServer struct {
	*httptest.Server
	mu    sync.Mutex
	cells map[backfill.Cell]*seen
	runs  int
}

func newInstantServer(b *testing.B) *instantServer {
	s := &instantServer{cells: map[backfill.Cell]*seen{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		key := strings.Split(r.Header.Get("Idempotency-Key"), "/")
		date, err := backfill.ParseDate(key[1])
		if err != nil {
			b.Error(err)
		}
		w.WriteHeader(http.StatusNoContent)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.runs++
		c := backfill.Cell{Date: date, Phase: key[2]}
		if s.cells[c] == nil {
			s.cells[c] = &seen{first: now}
		}
		s.cells[c].last = time.Now()
	}))
	b.Cleanup(s.Close)
	return s
}

func benchNBA4(b *testing.B, t *tabwriter.Writer, limits []int) {
	server := newInstantServer(b)
	cells := server.cells
	cal, err := platform.Calendar()
	if err != nil {
		b.Fatal(err)
	}
	w := &world{t: b, dir: b.TempDir(), address: freeAddress(b)}
	w.writeCalendar()
	w.pipeline = w.write("pipeline.yaml", instant(server.URL, limits))
	p := w.start()
	began := time.Now()
	w.must("submit", "-f", w.write("r.json", `{"backfill_id":"nba-4","pipeline":"nba","dates":{"seasons":["2021-22","2022-23","2023-24","2024-25"]}}`))
	w.must("watch", "nba-4")
	var end time.Time
	for _, c := range cells {
		if c.last.After(end) {
			end = c.last
		}
	}
	took := end.Sub(began)
	memory := peakMemory(b, p.cmd.Process.Pid)
	p.stop(syscall.SIGTERM)
	cpu := p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	lag := latencies(cal, cells)
	runs := server.runs
	if runs < 43940 || len(lag) != 3*845 {
		b.Fatalf("%d runs and %d gates", runs, len(lag))
	}
	quantile := func(q float64) float64 { return lag[int(q*float64(len(lag)-1))].Seconds() * 1000 }
	b.ReportMetric(float64(runs)/took.Seconds(), "runs/s")
	b.ReportMetric(quantile(0.5), "p50-ms")
	b.ReportMetric(quantile(0.99), "p99-ms")
	_, _ = fmt.Fprintf(t, "%v\t%d\t%.1f\t%.0f\t%.1f\t%.1f\t%d\t%.1f\t\n",
		limits, runs, took.Seconds(), float64(runs)/took.Seconds(), quantile(0.5), quantile(0.99), memory, cpu.Seconds())
}

// latencies are the times from the last completion that a phase of a date waited for to the phase's first
// call, sorted. Waiting for room within the limits is part of it.
func latencies(cal backfill.Calendar, cells map[backfill.Cell]*seen) []time.Duration {
	var out []time.Duration
	for i, p := range cal.All() {
		for n := 2; n <= 4; n++ {
			at, ok := cells[backfill.Cell{Date: p.Date, Phase: fmt.Sprintf("phase_%d", n)}]
			if !ok {
				continue
			}
			before := fmt.Sprintf("phase_%d", n-1)
			from := p.Date
			if n == 4 { // the first call needs no more than ten games of the season
				j := i
				for j > 0 && i-j < 10 && cal.At(j-1).Season == p.Season {
					j--
				}
				from = cal.At(j).Date
			}
			var open time.Time
			for _, q := range cal.Between(from, p.Date) {
				if c := cells[backfill.Cell{Date: q.Date, Phase: before}]; c != nil && c.last.After(open) {
					open = c.last
				}
			}
			out = append(out, at.first.Sub(open))
		}
	}
	slices.Sort(out)
	return out
}
