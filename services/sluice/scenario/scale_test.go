package scenario_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const wide = `
name: wide
partition: {column: day, calendar: {daily: {from: 2010-01-01}}}
defaults: {timeout: 30s, attempts: 5, backoff: {initial: 20ms, max: 200ms}}
phases:
  - id: one
    trigger: {http: {url: "%[1]s/one", reply: sync, body: '{"day":"{{.Date}}"}'}}
    max_processors: 100
    processors: [a, b]
  - id: two
    trigger: {http: {url: "%[1]s/two", reply: sync, body: '{"day":"{{.Date}}"}'}}
    max_processors: 100
    processors: [{name: c, window: {phase: one, days: 30}}, {name: d, needs: [c]}]
  - id: three
    trigger: {http: {url: "%[1]s/three", reply: sync, body: '{"day":"{{.Date}}"}'}}
    max_processors: 100
    processors: [{name: e, window: {phase: two, games: 10}}, f]
  - id: four
    trigger: {http: {url: "%[1]s/four", reply: sync, body: '{"day":"{{.Date}}"}'}}
    max_processors: 100
    processors: [g]
`

func TestFiveThousandDates(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	var keys sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if at, again := keys.LoadOrStore(r.Header.Get("Idempotency-Key"), time.Now()); again {
			t.Logf("%s was called again after %s", r.Header.Get("Idempotency-Key"), time.Since(at.(time.Time)))
		}
	}))
	t.Cleanup(server.Close)
	w := &world{t: t, dir: t.TempDir(), address: freeAddress(t)}
	w.pipeline = w.write("pipeline.yaml", fmt.Sprintf(wide, server.URL))
	p := w.start()
	// 2010-01-01 and 4,999 days
	w.must("submit", "-f", w.write("wide.json",
		`{"backfill_id":"wide","pipeline":"wide","dates":{"range":{"start":"2010-01-01","end":"2023-09-09"}}}`))
	w.must("watch", "wide")
	s := w.status("wide")
	if s.Dates.Total != 5000 || s.Dates.Complete != 5000 || s.Phases[0].Runs.Succeeded != 10000 || calls.Load() != 35000 {
		t.Errorf("%+v after %d calls and %d retries", s.Dates, calls.Load(), s.Retries)
	}
	var list struct{ Dates []json.RawMessage }
	if err := json.Unmarshal([]byte(w.call("ListDates", `{"backfill_id":"wide"}`)), &list); err != nil || len(list.Dates) != 5000 {
		t.Errorf("ListDates has %d dates (%v)", len(list.Dates), err)
	}
	if mb := peakMemory(t, p.cmd.Process.Pid); mb >= 300 {
		t.Errorf("the process took %d MB", mb)
	} else {
		t.Logf("the process took %d MB", mb)
	}
}

// peakMemory is the largest resident size of a process so far, in MB.
func peakMemory(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	t.Fatal("the kernel does not tell the peak memory")
	return 0
}
