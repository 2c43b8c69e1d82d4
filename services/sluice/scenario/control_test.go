package scenario_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice.dev/services/sluice/platform"
)

func contains(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Speed: 20, Seed: 3})
	w.start()
	w.submit("cancelled", 20)
	eventually(t, 20*time.Second, "calls are in flight", func() bool { return w.platform.InFlight() > 20 })
	w.must("cancel", "cancelled", "--reason", "a test")
	asked := time.Now()
	eventually(t, 2*time.Second, "no call is in flight", func() bool { return w.platform.InFlight() == 0 })
	if a := w.sluice("watch", "cancelled"); a.code != 3 {
		t.Fatalf("watch: exit %d\n%s%s", a.code, a.out, a.err)
	}
	w.must("cancel", "cancelled")
	time.Sleep(500 * time.Millisecond) // long enough for anything that is still queued to show
	for _, c := range w.platform.Calls() {
		if late := c.At.Sub(asked); late > 2*time.Second {
			t.Errorf("%s was called %s after the cancel", c.Key, late)
		}
	}
	if s := w.status("cancelled"); s.State != "cancelled" {
		t.Errorf("after a second cancel: %+v", s)
	}
	if a := w.sluice("resume", "cancelled", "--wait"); a.code == 0 || !contains(a.err, "no effect") {
		t.Errorf("a cancelled backfill was resumed: exit %d %s", a.code, a.err)
	}
	w.submit("after", 2) // its dates are free again
	w.must("cancel", "after", "--wait")
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Speed: 100, Seed: 3})
	w.start()
	w.submit("pauses", 6)
	w.finished(60)
	w.must("pause", "pauses", "--wait")
	if s := w.status("pauses"); s.State != "paused" {
		t.Fatalf("%+v", s)
	}
	calls := len(w.platform.Calls())
	time.Sleep(300 * time.Millisecond)
	if now := len(w.platform.Calls()); now != calls {
		t.Errorf("%d calls while paused", now-calls)
	}
	w.must("resume", "pauses")
	w.must("watch", "pauses")
	assertAllDone(t, w.platform, w.dates(6))
	assertNoneAgain(t, w.platform, nil, 0)
}

func TestABrokenProcessorHoldsOnlyWhatNeedsIt(t *testing.T) {
	t.Parallel()
	var mended atomic.Bool
	dates := []string{}
	w := newWorld(t, platform.Options{Seed: 3, Broken: func(processor, date string) bool {
		return !mended.Load() && processor == "nbac_play_by_play" && date == dates[17]
	}})
	dates = w.dates(20)
	w.start()
	w.submit("broken", 20)
	if a := w.sluice("watch", "broken"); a.code != 2 {
		t.Fatalf("watch: exit %d\n%s%s", a.code, a.out, a.err)
	}
	s := w.status("broken")
	if s.State != "incomplete" || s.Dates.Complete != 17 || s.Dates.Failed != 1 || s.Dates.Blocked != 2 {
		t.Errorf("status: %+v", s)
	}
	a := w.sluice("failures", "broken", "-o", "json")
	var got struct {
		Failures []struct {
			Date, Phase, Processor string
			Attempts               int
			LastError              string `json:"last_error"`
			Blocks                 []struct{ Date, Phase string }
			BlocksTotal            int `json:"blocks_total"`
		}
	}
	if err := json.Unmarshal([]byte(a.out), &got); err != nil || a.code != 2 || len(got.Failures) != 1 {
		t.Fatalf("failures: exit %d %v\n%s", a.code, err, a.out)
	}
	f := got.Failures[0]
	if f.Date != dates[17] || f.Phase != "phase_1_scrape" || f.Processor != "nbac_play_by_play" || f.Attempts != 3 ||
		!contains(f.LastError, "500", "nbac_play_by_play is broken") {
		t.Errorf("failure: %+v", f)
	}
	// Phases 2 to 4 of its own date, and phases 3 and 4 of the two dates after it, whose windows reach back.
	if f.BlocksTotal != 7 || len(f.Blocks) != 7 {
		t.Errorf("blocks: %+v", f)
	}
	if n := strings.Count(w.call("ListDates", `{"backfill_id":"broken"}`), `"blocked"`); n != 7 {
		t.Errorf("ListDates has %d blocked phases, not 7", n)
	}
	mended.Store(true)
	before := len(w.platform.Calls())
	w.must("retry", "broken", "--wait")
	w.must("watch", "broken")
	if a := w.sluice("failures", "broken"); a.code != 0 || a.out != "" {
		t.Errorf("failures after the retry: exit %d %s", a.code, a.out)
	}
	assertAllDone(t, w.platform, dates)
	assertOrder(t, w.platform, dates)
	assertNoneAgain(t, w.platform, nil, 0)
	// Exactly what was missing: the scraper, one call for phase 3 and five for phase 4 on each of three dates.
	if n := len(w.platform.Calls()) - before; n != 1+3*6 {
		t.Errorf("the retry made %d calls, not 19", n)
	}
}

func TestTwentyOfTwentyOneNeverPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Seed: 3, Silent: func(processor, _ string) bool { return processor == "RefereesProcessor" }})
	w.start()
	w.submit("silent", 2)
	if a := w.sluice("watch", "silent"); a.code != 2 {
		t.Fatalf("watch: exit %d\n%s%s", a.code, a.out, a.err)
	}
	again := map[string]int{}
	for _, c := range w.platform.Calls() {
		if c.Path == "/process" || c.Path == "/process-date" {
			t.Errorf("%s was called although phase 2 stood at 20/21", c.Key)
		}
		if strings.Contains(c.Key, "/phase_2_raw/RefereesProcessor/") {
			again[c.Date]++
		}
	}
	for _, d := range w.dates(2) {
		if again[d] != 2 { // attempts 2 and 3 scrape again
			t.Errorf("%s: the silent processor was tried again %d times, not twice", d, again[d])
		}
	}
	a := w.sluice("failures", "silent")
	if a.code != 2 || strings.Count(a.out, "\n") != 2 || !contains(a.out, "phase_2_raw RefereesProcessor: 3 attempts: no completion within 3s") {
		t.Errorf("failures: exit %d\n%s", a.code, a.out)
	}
	w.must("waive", "silent", "--phase", "phase_2_raw", "--processors", "RefereesProcessor",
		"--dates", strings.Join(w.dates(2), ","), "--reason", "no referees in the archive", "--wait")
	w.must("watch", "silent")
	if out := w.must("status", "silent", "-o", "json"); !contains(strings.ReplaceAll(out, " ", ""), `"waived":2`) {
		t.Errorf("the waiver does not show: %s", out)
	}
}

func TestTheSameTwiceIsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Seed: 3})
	w.start()
	for range 3 {
		w.submit("twice", 4)
	}
	other := w.write("other.json", fmt.Sprintf(`{"backfill_id":"twice","pipeline":"nba","dates":{"list":[%q]}}`, w.dates(1)[0]))
	if a := w.sluice("submit", "-f", other); a.code != 1 || !contains(a.err, "twice", "something else") {
		t.Errorf("the same id with other content: exit %d %s", a.code, a.err)
	}
	overlap := w.write("overlap.json", fmt.Sprintf(`{"backfill_id":"overlap","pipeline":"nba","dates":{"list":[%q]}}`, w.dates(1)[0]))
	if a := w.sluice("submit", "-f", overlap); w.status("twice").State == "active" && (a.code != 1 || !contains(a.err, `"twice"`)) {
		t.Errorf("a date that another backfill owns: exit %d %s", a.code, a.err)
	}
	w.must("watch", "twice")
	for _, c := range w.platform.Calls() {
		if strings.HasPrefix(c.Key, "twice/") && !strings.HasSuffix(c.Key, "/1") {
			t.Errorf("%s: nothing failed, so there is one attempt", c.Key)
		}
	}
	assertNoneAgain(t, w.platform, nil, 0)
	// Every completion ten times more, also false ones, changes nothing.
	before := w.status("twice")
	for _, status := range []string{"success", "failed", "success", "failed", "partial", "success", "success", "failed", "success", "success"} {
		w.post("nba-phase2-raw-complete", fmt.Sprintf(
			`{"processor_name":"BdlGamesProcessor","phase":"phase_2_raw","game_date":%q,"status":%q}`, w.dates(1)[0], status), 204)
		w.post("processor-completions", fmt.Sprintf(
			`{"backfill_id":"twice","pipeline":"nba","phase":"phase_1_scrape","processor":"bdl_games","date":%q,"status":"failed","attempt":1}`, w.dates(1)[0]), 204)
		w.post("processor-completions", fmt.Sprintf(
			`{"backfill_id":"twice","pipeline":"nba","phase":"phase_1_scrape","processor":"stranger","date":%q,"status":"succeeded"}`, w.dates(1)[0]), 204)
	}
	if after := w.status("twice"); after.State != "completed" || after.Phases[0].Runs != before.Phases[0].Runs || after.Phases[1].Runs != before.Phases[1].Runs {
		t.Errorf("from %+v to %+v", before, after)
	}
}

// Late and repeated completions while a backfill runs: a success stays one, whatever follows.
func TestLateFailuresUndoNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Seed: 3, Speed: 100})
	w.start()
	w.submit("late", 3)
	for range 10 {
		w.finished(min(3*52, len(w.platform.Finished())+10))
		for _, f := range w.platform.Finished()[:10] {
			w.post("processor-completions", fmt.Sprintf(
				`{"backfill_id":"late","pipeline":"nba","phase":"phase_1_scrape","processor":%q,"date":%q,"status":"failed","attempt":1}`, f.Processor, f.Date), 204)
		}
	}
	w.must("watch", "late")
	assertAllDone(t, w.platform, w.dates(3))
	assertOrder(t, w.platform, w.dates(3))
}

func TestLimitsOfARunningBackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{Speed: 100, Seed: 3})
	w.start()
	w.submit("limited", 40)
	w.finished(30)
	for _, bad := range [][]string{
		{"nowhere.max_dates=1", "unknown phase"}, {"phase_1_scrape.max_processors=211", "may only lower"}, {"phase_1_scrape.max_processors", "NAME=NUMBER"},
		{"phase_1_scrape.speed=1", "no such limit"}, {"phase_1_scrape.max_dates=-1", "not below zero"},
	} {
		if a := w.sluice("limit", "limited", "--limit", bad[0]); a.code != 1 || !contains(a.err, bad[1]) {
			t.Errorf("%s: exit %d, %s", bad[0], a.code, a.err)
		}
	}
	w.must("limit", "limited", "--limit", "phase_1_scrape.max_processors=2", "--wait")
	eventually(t, 10*time.Second, "no more than two scrapes are in flight", func() bool { return w.scrapes() <= 2 })
	until := time.Now().Add(500 * time.Millisecond) // about 25 scrapes
	for time.Now().Before(until) {
		if n := w.scrapes(); n > 2 {
			t.Fatalf("%d scrapes in flight", n)
		}
		time.Sleep(time.Millisecond)
	}
	w.must("limit", "limited", "--limit", "phase_1_scrape.max_processors=0", "--wait")
	eventually(t, 10*time.Second, "more scrapes are in flight", func() bool { return w.scrapes() > 2 })
	w.must("watch", "limited")
	assertAllDone(t, w.platform, w.dates(40))
	if a := w.sluice("limit", "limited", "--limit", "phase_1_scrape.max_processors=2"); a.code != 1 || !contains(a.err, "no effect") {
		t.Errorf("a backfill that has ended: exit %d, %s", a.code, a.err)
	}
}

// scrapes counts the scrapes in flight.
func (w *world) scrapes() int {
	n := 0
	for _, c := range w.platform.Calls() {
		if c.Path == "/scrape" && c.Answered.IsZero() {
			n++
		}
	}
	return n
}
