package scenario_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"sluice.dev/services/sluice/platform"
)

// post sends a message to a topic as curl would.
func (w *world) post(topic, body string, want int) string {
	w.t.Helper()
	resp, err := http.Post("http://"+w.address+"/topics/"+topic, "application/json", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != want {
		w.t.Errorf("%s: %s: %s", topic, resp.Status, text)
	}
	return string(text)
}

// call asks the API as curl would.
func (w *world) call(method, body string) string {
	w.t.Helper()
	resp, err := http.Post("http://"+w.address+"/sluice.v1.BackfillService/"+method, "application/json", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s: %s (%v)", method, resp.Status, text, err)
	}
	return string(text)
}

func TestBadRequestsAreRefused(t *testing.T) {
	t.Parallel()
	w := &world{t: t, dir: t.TempDir(), address: freeAddress(t)} // the demo's pipeline reads its calendar from a table
	w.start("--demo")
	cases := []struct {
		name, request string
		faults        []string
	}{
		{"unknown-pipeline", `{"pipeline":"nfl","dates":{"seasons":["2023-24"]}}`, []string{`unknown pipeline "nfl"`, "nba"}},
		{"empty-season", `{"pipeline":"nba","dates":{"seasons":["2019-20"]}}`, []string{"no game dates found for season 2019-20 in nba_reference.nba_schedule"}},
		{"backwards", `{"pipeline":"nba","dates":{"range":{"start":"2024-02-01","end":"2024-01-01"}}}`, []string{"ends on 2024-01-01", "before it starts on 2024-02-01"}},
		{"no-game-date", `{"pipeline":"nba","dates":{"list":["2023-11-23"]}}`, []string{"2023-11-23 is no game date"}},
		{"unknown-phase", `{"pipeline":"nba","dates":{"seasons":["2023-24"]},"phases":["phase_9"]}`, []string{`unknown phase "phase_9"`, "phase_1_scrape"}},
		{"negative-budget", `{"pipeline":"nba","dates":{"seasons":["2023-24"]},"budget_usd":-1}`, []string{"budget_usd is -1"}},
		{"unknown-field", `{"pipeline":"nba","dates":{"seasons":["2023-24"]},"speed":9}`, []string{`unknown field "speed"`}},
		{"no-dates", `{"pipeline":"nba"}`, []string{"dates must name exactly one of"}},
		{"raised-limit", `{"pipeline":"nba","dates":{"seasons":["2023-24"]},"limits":{"phase_3_analytics":{"max_dates":1000}}}`, []string{"may only lower"}},
		{"gaps", `{"pipeline":"nba","dates":{"seasons":["2023-24"]},"phases":["phase_3_analytics"]}`, []string{"phase_2_raw is needed but not complete in history for 207 dates", "accept_gaps"}},
		{"several", `{"pipeline":"","dates":{"list":["yesterday"]},"order":"random","validate_first":-2,"colour":"red"}`,
			[]string{"colour"}},
	}
	for _, c := range cases {
		request := `{"backfill_id":"` + c.name + `",` + c.request[1:]
		a := w.sluice("submit", "-f", w.write(c.name+".json", request))
		if a.code != 1 || !contains(a.err, c.faults...) {
			t.Errorf("%s: exit %d: %s", c.name, a.code, a.err)
		}
		// the same, published by somebody who does not wait for an answer
		w.post("backfill-requests", strings.Replace(request, c.name, "posted-"+c.name, 1), status204or400(c.name))
		for _, id := range []string{c.name, "posted-" + c.name} {
			var s status
			eventually(t, 10*time.Second, id+" is on record", func() bool {
				a := w.sluice("status", id, "-o", "json")
				if a.code == 0 {
					s = w.status(id)
				}
				return s.State == "refused"
			})
			if !contains(strings.Join(s.Faults, "\n"), c.faults...) {
				t.Errorf("%s: status says %q", id, s.Faults)
			}
		}
	}
	garbage := strings.Repeat("x", 10<<20)
	if text := w.post("backfill-requests", garbage, 400); !contains(text, "larger than 10000000 bytes") {
		t.Errorf("garbage: %s", text)
	}
	w.post("backfill-requests", garbage[:9_000_000], 400)
	w.post("no-such-topic", "{}", 404)
	eventually(t, 10*time.Second, "the garbage is on record", func() bool { return strings.Count(w.must("status"), "is not JSON") >= 1 })
	if n := strings.Count(w.must("status"), "refused"); n < 2*len(cases)+2 {
		t.Errorf("status lists %d refusals of %d", n, 2*len(cases)+2)
	}
	if a := w.sluice("submit", "-f", w.write("good.json", `{"backfill_id":"good","pipeline":"nba","dates":{"list":["2023-10-24"]}}`), "--watch"); a.code != 0 {
		t.Errorf("the service does not go on: exit %d %s", a.code, a.err)
	}
}

// status204or400 is what posting a request answers: faults that show without the pipeline are told at once.
func status204or400(name string) int {
	switch name {
	case "unknown-pipeline", "empty-season", "no-game-date", "unknown-phase", "raised-limit", "gaps":
		return http.StatusNoContent
	default:
		return http.StatusBadRequest
	}
}

func TestCommandsWithoutAServer(t *testing.T) {
	t.Parallel()
	w := &world{t: t, dir: t.TempDir(), address: freeAddress(t)}
	for _, args := range [][]string{{"status"}, {"watch", "x"}, {"failures", "x"}, {"pause", "x"}} {
		if a := w.sluice(args...); a.code != 1 || strings.Count(a.err, "\n") != 1 || !contains(a.err, "sluice: ", w.address, "sluice local") {
			t.Errorf("%v: exit %d: %s", args, a.code, a.err)
		}
	}
}

func TestUnknownBackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, platform.Options{})
	w.start()
	for _, command := range []string{"status", "watch", "failures", "pause", "resume", "cancel", "retry"} {
		if a := w.sluice(command, "nobody"); a.code != 1 || !contains(a.err, `no backfill "nobody"`) {
			t.Errorf("%s: exit %d: %s", command, a.code, a.err)
		}
	}
}
