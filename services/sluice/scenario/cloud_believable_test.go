package scenario_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/bigquery"
	"google.golang.org/api/option"

	"sluice.dev/pkg/event"
	"sluice.dev/services/sluice/platform"
)

// oneCheck is the pipeline with a blocking check that wants a table to be empty.
func oneCheck(text string) string {
	text, _, _ = strings.Cut(text, "\nbigquery:")
	return text + `
checks:
  - name: nothing_odd
    after: phase_3_analytics
    kind: sql
    query: "SELECT game_date, game_id FROM ` + "`nba_analytics.player_game_summary`" + ` WHERE game_date IN (SELECT DATE(d) FROM UNNEST(@dates) AS d)"
    expect: no_rows
    blocking: true
`
}

// bigQuery runs a statement on the emulator.
func (c *cloud) bigQuery(sql string) {
	c.t.Helper()
	client, err := bigquery.NewClient(c.t.Context(), c.project, option.WithEndpoint(os.Getenv("BIGQUERY_EMULATOR_HOST")), option.WithoutAuthentication())
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Query(sql).Read(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

func TestCloudPreflightChecksAndRollback(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 11}, tables: oneCheck})
	dates := c.dates(4)
	// The dispatcher runs preflight for what comes from others too.
	c.gcloud(event.TopicRequests, fmt.Sprintf(`{"backfill_id":"too-dear","pipeline":"nba","dates":{"list":[%q]},"budget_usd":0.000001}`, dates[0]))
	eventually(t, 30*time.Second, "the refusal is on record", func() bool { return c.sluice("status", "too-dear").code == 0 })
	if s := c.status("too-dear"); s.State != "refused" || len(s.Faults) != 1 || !contains(s.Faults[0], "budget: ", "raise the budget") || len(c.platform.Calls()) != 0 {
		t.Fatalf("%+v, %d calls", s, len(c.platform.Calls()))
	}
	c.bigQuery("INSERT INTO `nba_analytics.player_game_summary` (game_date, game_id) VALUES (DATE '" + dates[1] + "', 'odd'), (DATE '2020-01-01', 'old')")
	c.submit("checked", 4)
	if a := c.sluice("watch", "checked"); a.code != 2 {
		t.Fatalf("watch: exit %d\n%s%s", a.code, a.out, a.err)
	}
	if s := c.status("checked"); s.Dates.Complete != 3 || s.Dates.Failed != 1 {
		t.Errorf("%+v", s)
	}
	if a := c.sluice("failures", "checked"); strings.Count(a.out, "\n") != 1 || !contains(a.out, dates[1]+" phase_3_analytics check:nothing_odd: 1 attempts: 1 rows", "game_id=odd") {
		t.Errorf("failures:\n%s", a.out)
	}
	if a := c.sluice("verify", "checked"); a.code != 2 || !contains(a.out, "nothing_odd", "failed", dates[1]) {
		t.Errorf("verify: exit %d\n%s%s", a.code, a.out, a.err)
	}
	// What is wrong is removed, and the date goes on.
	c.must("rollback", "checked", "--phases", "phase_3_analytics", "--dates", dates[1], "--yes", "--wait")
	c.must("retry", "checked", "--wait")
	c.must("watch", "checked")
	if s := c.status("checked"); s.State != "completed" {
		t.Errorf("%+v", s)
	}
	c.must("verify", "checked")
	c.must("rollback", "checked", "--undo", "--yes", "--wait")
	if a := c.sluice("verify", "checked"); a.code != 2 {
		t.Errorf("what was put back is not there: exit %d\n%s", a.code, a.out)
	}
	c.must("forget", "checked", "--wait")
	if a := c.sluice("status", "checked"); a.code == 0 {
		t.Errorf("it is still there:\n%s", a.out)
	}
}
