package scenario_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/sluice/platform"
)

const rawTopic = "nba-phase2-raw-complete"

// kinds counts the journal's lines about a processor by kind.
func kinds(events []*event.Event, processor string) map[string]int {
	out := map[string]int{}
	for _, e := range events {
		if m, ok := e.Data.(*pb.BackfillEvent); ok && m.GetProcessor() == processor {
			out[m.GetKind()]++
		}
	}
	return out
}

// The raw processors say nothing here; the test reports for them in the platform's own format.
func TestCloudAdapterFormats(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 4, Silent: func(p, _ string) bool { return strings.HasSuffix(p, "Processor") }}})
	lines := c.received(journal)
	dead := c.letters(rawTopic)
	c.submit("formats", 1)
	date := c.dates(1)[0]
	c.finished(21)
	publish := func(processor, status string, change func(map[string]any)) {
		t.Helper()
		m := map[string]any{"processor_name": processor, "phase": "phase_2_raw", "game_date": date, "status": status, "record_count": 150, "correlation_id": "c-1", "execution_id": "x-1"}
		if change != nil {
			change(m)
		}
		body, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.bus.Publish(t.Context(), rawTopic, &event.Event{Raw: body}); err != nil {
			t.Fatal(err)
		}
	}
	raw := platform.Processors()[1]
	publish("StrangerProcessor", "success", nil)
	publish(raw[0], "success", func(m map[string]any) { delete(m, "game_date") })
	publish(raw[0], "success", func(m map[string]any) { m["game_date"] = "24.10.2023" })
	publish(raw[0], "splendid", nil)
	publish(raw[0], "failed", nil)
	publish(raw[1], "partial", nil)
	for _, name := range raw[2:] {
		publish(name, "success", nil)
	}
	retried := func(processor string) bool { return kinds(lines(), processor)["dispatched"] > 0 }
	eventually(t, 60*time.Second, "the failed and the partial one are started again", func() bool { return retried(raw[0]) && retried(raw[1]) })
	for _, call := range c.platform.Calls() {
		if call.Path == "/process" {
			t.Errorf("%s was called at 19/21", call.Key)
		}
	}
	publish(raw[0], "success", nil)
	publish(raw[1], "success", nil)
	if a := c.sluice("watch", "formats"); a.code != 0 {
		t.Fatalf("watch: exit %d\n%s%s", a.code, a.out, a.err)
	}
	for processor, want := range map[string]map[string]int{
		raw[0]: {"failed": 1, "succeeded": 1}, raw[1]: {"partial": 1, "succeeded": 1}, raw[2]: {"succeeded": 1}, "StrangerProcessor": {"unmatched": 1},
	} {
		got := func() map[string]int { return kinds(lines(), processor) }
		eventually(t, 20*time.Second, fmt.Sprintf("the journal says of %s: %v", processor, want), func() bool {
			for kind, n := range want {
				if got()[kind] != n {
					return false
				}
			}
			return true
		})
	}
	eventually(t, 20*time.Second, "three messages are dead letters", func() bool { return len(dead()) == 3 })
	reasons := strings.Join(dead(), "\n")
	for _, want := range []string{`field "game_date" is missing`, "24.10.2023", `"splendid"`} {
		if !strings.Contains(reasons, want) {
			t.Errorf("no dead letter says %q:\n%s", want, reasons)
		}
	}
}

func TestCloudPoison(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 14}})
	lines := c.received(journal)
	topics := []string{event.TopicRequests, event.TopicControls, event.TopicTriggers, event.TopicCompletions, event.TopicPhaseCompletions, rawTopic}
	dead := map[string]func() []string{}
	for _, topic := range topics {
		dead[topic] = c.letters(topic)
	}
	const n = 5
	c.submit("poisoned", n)
	c.finished(50)
	large := bytes.Repeat([]byte("x"), 9_000_000)
	for _, topic := range topics {
		for _, body := range [][]byte{{0xff, 0x00, '{'}, large} {
			if err := c.bus.Publish(t.Context(), topic, &event.Event{Raw: body}); err != nil {
				t.Fatal(err)
			}
		}
	}
	now := time.Now()
	stranger := &pb.ProcessorCompleted{BackfillId: "nobody", Pipeline: "nba", Date: c.dates(1)[0], Phase: "phase_1_scrape", Processor: "lost_sheep", Status: "succeeded"}
	for _, e := range []struct {
		topic string
		event *event.Event
	}{
		{event.TopicCompletions, event.New(event.TypeRequested, "//test", "s", now, &pb.BackfillRequested{Pipeline: "nba"}, "another type")},
		{event.TopicCompletions, event.New(event.TypeCompleted, "//test", "s", now, stranger, "unknown backfill")},
		{event.TopicControls, event.New(event.TypeControlled, "//test", "s", now, &pb.BackfillControlled{BackfillId: "nobody", Action: "pause"}, "unknown backfill")},
		{event.TopicTriggers, event.New(event.TypeTriggered, "//test", "s", now, &pb.PhaseTriggered{BackfillId: "nobody", Date: c.dates(1)[0], Phase: "p"}, "unknown backfill")},
	} {
		if err := c.bus.Publish(t.Context(), e.topic, e.event); err != nil {
			t.Fatal(err)
		}
	}
	c.completes("poisoned", n)
	assertNoneAgain(t, c.platform, nil, 0)
	for topic, want := range map[string]int{
		event.TopicControls: 3, event.TopicTriggers: 2, event.TopicCompletions: 3, event.TopicPhaseCompletions: 4, rawTopic: 2, // two consumers of phase-completions
	} {
		eventually(t, 30*time.Second, fmt.Sprintf("%d dead letters of %s", want, topic), func() bool { return len(dead[topic]()) == want })
		if slices.Contains(dead[topic](), "") {
			t.Errorf("dead letters of %s without a reason: %q", topic, dead[topic]())
		}
	}
	eventually(t, 20*time.Second, "the unknown backfill is journalled", func() bool { return kinds(lines(), "lost_sheep")["unmatched"] == 1 })
	if refused := c.must("status"); !strings.Contains(refused, "refused") {
		t.Errorf("garbage on %s is not on record as refused:\n%s", event.TopicRequests, refused)
	}
}
