package scenario_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice.dev/services/sluice/platform"
)

// planned is the part of plan -o json that scenarios look at.
type planned struct {
	Plan struct {
		DatesTotal  int `json:"dates_total"`
		DatesToDo   int `json:"dates_to_do"`
		RunsToDo    int `json:"runs_to_do"`
		RunsSkipped int `json:"runs_skipped"`
		Makespan    struct {
			P10 float64 `json:"p10_seconds"`
			P50 float64 `json:"p50_seconds"`
			P90 float64 `json:"p90_seconds"`
		}
		Bounds []struct {
			Name    string
			Seconds float64
		}
		CriticalPath []struct {
			Wait, Processor string
			End             float64 `json:"end_seconds"`
		} `json:"critical_path"`
		Limits []struct {
			Name        string
			Utilisation float64
		}
		Phases []struct {
			ID    string
			Start float64 `json:"start_seconds"`
			End   float64 `json:"end_seconds"`
		}
		Spend struct {
			Total float64 `json:"total_usd"`
			Parts []struct {
				Name, Source string
				USD          float64
			}
		}
		Durations []struct{ Phase, Processor, Source string }
		Notes     []string
		Throttles int
	}
}

func (w *world) plan(args ...string) planned {
	w.t.Helper()
	var p planned
	if err := json.Unmarshal([]byte(w.must(append(args, "-o", "json")...)), &p); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// demo starts the program with the example platform in it.
func demo(t *testing.T, args ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), address: freeAddress(t)}
	w.start(append([]string{"--demo"}, args...)...)
	return w
}

func (w *world) request(id string, n int, more string) string {
	dates := w.dates(n)
	return w.write(id+".json", fmt.Sprintf(`{"backfill_id":%q,"pipeline":"nba","dates":{"range":{"start":%q,"end":%q}}%s}`, id, dates[0], dates[n-1], more))
}

// The simulator's proof: the same backfill for real ends when the plan says, within ten in a hundred. Not parallel,
// and slow enough that the machine is not what limits it; long enough that one unlucky scrape does not decide. What
// else the machine does meanwhile may spoil a run, but not three: a plan that is wrong is wrong each time.
func TestThePlanPredictsTheRun(t *testing.T) { //nolint:paralleltest // see there
	var off []string
	for seed := range 3 {
		why := predicts(t, strconv.Itoa(seed+1))
		if why == "" {
			return
		}
		off = append(off, why)
	}
	t.Error(strings.Join(off, "\n"))
}

// predicts runs a backfill, and says how it differs from its plan where that is too much.
func predicts(t *testing.T, seed string) string {
	t.Helper()
	const dates = 150
	w := demo(t, "--speed", "25", "--seed", seed, "--faults", "0.01")
	file := w.request("predicted", dates, "")
	plan := w.plan("plan", "-f", file).Plan
	w.must("submit", "-f", file)
	w.must("watch", "predicted")
	began, ends, runs := w.ends("predicted")
	if runs != dates*52 {
		t.Fatalf("%d runs succeeded", runs)
	}
	var last time.Time
	var why string
	for i, ph := range plan.Phases {
		end := ends[ph.ID]
		if end.After(last) {
			last = end
		}
		if off := end.Sub(began).Seconds()/ph.End - 1; i < 3 && math.Abs(off) > 0.15 {
			why += fmt.Sprintf("the end of %s is off by %+.1f %%; ", ph.ID, 100*off)
		}
	}
	took := last.Sub(began).Seconds()
	off := took/plan.Makespan.P50 - 1
	said := fmt.Sprintf("took %.1f s, %.1f s were predicted (p10 %.1f, p90 %.1f): %+.1f %%", took, plan.Makespan.P50, plan.Makespan.P10, plan.Makespan.P90, 100*off)
	t.Log(said)
	if why == "" && math.Abs(off) <= 0.10 {
		return ""
	}
	return why + said
}

// ends reads from the journal when a backfill became active, when each phase's last processor succeeded, and how many
// did.
func (w *world) ends(id string) (began time.Time, ends map[string]time.Time, runs int) {
	w.t.Helper()
	ends = map[string]time.Time{}
	seen := map[string]bool{}
	for line := range strings.Lines(w.must("events", id, "-o", "json")) {
		var e struct {
			At                           time.Time
			Kind, Date, Phase, Processor string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatal(err)
		}
		switch key := e.Date + e.Phase + e.Processor; {
		case e.Kind == "activated":
			began = e.At
		case e.Kind == "succeeded" && !seen[key]:
			seen[key] = true
			runs++
			if e.At.After(ends[e.Phase]) {
				ends[e.Phase] = e.At
			}
		}
	}
	return began, ends, runs
}

// What history knows takes the place of what the pipeline expects, and is not done again.
func TestThePlanLearnsFromHistory(t *testing.T) {
	t.Parallel()
	w := demo(t, "--speed", "200")
	w.must("submit", "-f", w.request("first", 12, ""))
	w.must("watch", "first")
	p := w.plan("plan", "-f", w.request("more", 13, "")).Plan
	if p.DatesTotal != 13 || p.RunsSkipped != 12*31 || p.RunsToDo != 12*21+52 {
		t.Errorf("%d dates, %d runs to do, %d skipped", p.DatesTotal, p.RunsToDo, p.RunsSkipped)
	}
	for _, d := range p.Durations {
		want := "history"
		if d.Phase == "phase_1_scrape" || d.Phase == "phase_5_predictions" { // these have no history
			want = "expect"
		}
		if d.Source != want {
			t.Errorf("the duration of %s is from %s", d.Processor, d.Source)
		}
	}
	done := w.request("done", 12, `,"phases":["phase_3_analytics"]`)
	if p := w.plan("plan", "-f", done).Plan; p.DatesToDo != 0 || p.RunsToDo != 0 || p.RunsSkipped != 60 || p.Makespan.P90 != 0 {
		t.Errorf("a plan of what is done: %+v", p)
	}
	if text := w.must("plan", "-f", done); !strings.Contains(text, "0 to do of 12") || strings.Contains(text, "NaN") {
		t.Errorf("a plan of what is done:\n%s", text)
	}
}

func TestPlanAndSimulate(t *testing.T) {
	t.Parallel()
	w := demo(t, "--speed", "1")
	file := w.request("planned", 40, "")
	p := w.plan("plan", "-f", file).Plan
	if p.DatesTotal != 40 || p.DatesToDo != 40 || p.RunsToDo != 40*52 || p.RunsSkipped != 0 || p.Makespan.P10 > p.Makespan.P50 || p.Makespan.P50 > p.Makespan.P90 {
		t.Errorf("%+v", p)
	}
	if p.Bounds[0].Name != "longest chain" && p.Bounds[0].Name != "nba_com.rate" && p.Bounds[0].Name != "phase_4_precompute.max_processors" || p.Bounds[0].Seconds > p.Makespan.P50 {
		t.Errorf("bounds %+v", p.Bounds)
	}
	if last := p.CriticalPath[len(p.CriticalPath)-1]; math.Abs(last.End-p.Makespan.P50) > 1 || last.Processor != "ml_feature_store_v2" {
		t.Errorf("the critical path ends with %+v, the run takes %v", last, p.Makespan.P50)
	}
	if len(p.Phases) != 4 || len(p.Limits) != 7 || len(p.Spend.Parts) != 7 || p.Spend.Total <= 0 || len(p.Notes) == 0 {
		t.Errorf("%+v", p)
	}
	faster := w.plan("simulate", "-f", file, "--limit", "phase_4_precompute.max_processors=200", "--limit", "nba_com.rate=50", "--limit", "nba_com.burst=50", "--limit", "nba_com.in_flight=1000").Plan
	slower := w.plan("simulate", "-f", file, "--order", "date_by_date", "--seeds", "1").Plan
	worse := w.plan("simulate", "-f", file, "--fail", "0.2", "--throttle", "0.1").Plan
	if !(faster.Makespan.P50 < p.Makespan.P50 && p.Makespan.P50 < worse.Makespan.P50 && worse.Makespan.P50 < slower.Makespan.P50) || worse.Throttles == 0 {
		t.Errorf("faster %v, as it is %v, with failures %v, date by date %v", faster.Makespan.P50, p.Makespan.P50, worse.Makespan.P50, slower.Makespan.P50)
	}
	if same := w.plan("plan", "-f", file).Plan; same.Makespan != p.Makespan {
		t.Errorf("the same plan again: %+v, before %+v", same.Makespan, p.Makespan)
	}
	for _, part := range []string{"lower bound", "CRITICAL PATH", "phase_4_precompute.max_processors", "██", "BigQuery on demand", "note: "} {
		if text := w.must("plan", "-f", file); !strings.Contains(text, part) {
			t.Errorf("the plan does not say %q:\n%s", part, text)
		}
	}
	for _, bad := range [][]string{
		{"simulate", "-f", file, "--limit", "phase_9.max_dates=1"}, {"simulate", "-f", file, "--fail", "2"}, {"simulate", "-f", file, "--order", "backwards"},
		{"simulate", "-f", file, "--limit", "nba_com.rate"}, {"plan", "-f", w.write("bad.json", `{"pipeline":"nba","dates":{"seasons":["1999-00"]}}`)},
		{"plan", "-f", w.write("bad2.json", `{"pipeline":"nba","dates":{}}`)}, {"plan", "-f", "/nowhere.json"},
	} {
		if a := w.sluice(bad...); a.code != 1 || !strings.HasPrefix(a.err, "sluice: ") || strings.Count(a.err, "\n") != 1 {
			t.Errorf("%v: exit %d, %q", bad, a.code, a.err)
		}
	}
	if list := w.must("status"); strings.Contains(list, "planned") {
		t.Errorf("planning has left something:\n%s", list)
	}
}

// each order, on the platform's own evidence.
func TestOrders(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		more   string
		barred func(a, b at) bool // b must not start before a has ended
	}{
		"phase_by_phase": {`,"order":"phase_by_phase"`, func(a, b at) bool { return a.phase < b.phase && (a.phase != 0 || b.phase != 1) }},
		"date_by_date":   {`,"order":"date_by_date"`, func(a, b at) bool { return a.date < b.date }},
		"validate_first": {`,"validate_first":2`, func(a, b at) bool { return a.date < b.date && a.date < 2 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, platform.Options{Seed: 5})
			p := w.start()
			const n = 5
			w.must("submit", "-f", w.request("ordered", n, c.more))
			w.must("watch", "ordered")
			p.stop(syscall.SIGTERM)
			assertAllDone(t, w.platform, w.dates(n))
			starts, ends := w.spans(n)
			for b, start := range starts {
				for a, end := range ends {
					if c.barred(a, b) && start.Before(end) {
						t.Errorf("phase %d of date %d started %s before phase %d of date %d had ended", b.phase+1, b.date, end.Sub(start), a.phase+1, a.date)
					}
				}
			}
			if len(starts) != 3*n || len(ends) != 4*n {
				t.Errorf("%d starts, %d ends", len(starts), len(ends))
			}
		})
	}
}

// at is a phase of a date, both by position.
type at struct{ phase, date int }

// spans are when each phase of the first n dates was first called, and when its last processor ended.
func (w *world) spans(n int) (starts, ends map[at]time.Time) {
	dates, phase := map[string]int{}, map[string]int{}
	for i, d := range w.dates(n) {
		dates[d] = i
	}
	for i, names := range platform.Processors() {
		for _, name := range names {
			phase[name] = i
		}
	}
	starts, ends = map[at]time.Time{}, map[at]time.Time{}
	for _, c := range w.platform.Calls() {
		for i, path := range paths {
			k := at{i, dates[c.Date]}
			if path == c.Path && (starts[k].IsZero() || c.At.Before(starts[k])) {
				starts[k] = c.At
			}
		}
	}
	for _, f := range w.platform.Finished() {
		if k := (at{phase[f.Processor], dates[f.Date]}); f.At.After(ends[k]) {
			ends[k] = f.At
		}
	}
	return starts, ends
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	w := demo(t, "--speed", "1")
	good := w.request("checked", 5, "")
	if text := w.must("preflight", "-f", good); !strings.Contains(text, "1 targets are healthy") || strings.Contains(text, "failed") {
		t.Errorf("a good request:\n%s", text)
	}
	var got struct {
		Passed   bool
		Findings []struct{ Check, Result, Detail, Do string }
	}
	if err := json.Unmarshal([]byte(w.must("preflight", "-f", good, "-o", "json")), &got); err != nil || !got.Passed || len(got.Findings) != 11 {
		t.Errorf("%+v, %v", got, err)
	}
	w.must("submit", "-f", good)
	for _, bad := range []struct{ name, request, says string }{
		{"taken", strings.Replace(w.read(good), "checked", "another", 1), "5 dates belong to the running backfill checked"},
		{"gaps", `{"pipeline":"nba","dates":{"seasons":["2021-22"]},"phases":["phase_4_precompute"]}`, "phase_3_analytics is needed but not complete"},
		{"nothing", `{"pipeline":"nba","dates":{"seasons":["1999-00"]}}`, "no game dates found"},
		{"dear", `{"pipeline":"nba","dates":{"seasons":["2021-22"]},"budget_usd":0.0001}`, "budget_usd is 0.00"},
		{"wrong", `{"pipeline":"nba","dates":{},"order":"sideways"}`, "sideways"},
	} {
		if a := w.sluice("preflight", "-f", w.write(bad.name+".json", bad.request)); a.code != 1 || !strings.Contains(a.out, "failed") || !strings.Contains(a.out, bad.says) {
			t.Errorf("%s: exit %d\n%s%s", bad.name, a.code, a.out, a.err)
		}
	}
	if list := w.must("status"); strings.Count(list, "\n") != 2 {
		t.Errorf("preflight has left something:\n%s", list)
	}
	w.must("cancel", "checked", "--wait")
}
