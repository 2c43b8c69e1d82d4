package tracker_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"sluice.dev/pkg/backfill"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/completion-tracker/tracker"
)

// adapter reads what the NBA platform publishes, and a second phase that shares the topic.
func adapter() tracker.Adapter {
	fields := map[string]string{
		"date": "game_date", "phase": "phase", "processor": "processor_name", "status": "status", "records": "record_count",
		"correlation_id": "meta.correlation", "started_at": "meta.started", "attempt": "attempt",
	}
	words := map[string]string{"success": "succeeded", "partial": "partial", "failed": "failed"}
	p := &backfill.Pipeline{Name: "nba", Phases: []backfill.Phase{
		{ID: "phase_2_raw", Completions: &backfill.Adapter{Topic: "raw", Fields: fields, Status: words}},
		{ID: "phase_2_extra", Completions: &backfill.Adapter{Topic: "raw", Fields: fields, Status: map[string]string{"done": "succeeded"}}},
		{ID: "phase_1"},
	}}
	return tracker.Adapters(map[string]*backfill.Pipeline{"nba": p})["raw"]
}

func TestAdapterReadsThePlatformsMessage(t *testing.T) {
	t.Parallel()
	m, err := adapter().Read([]byte(`{"processor_name":"BdlGamesProcessor","phase":"phase_2_raw","game_date":"2025-11-29","status":"success",
		"record_count":150,"meta":{"correlation":"c","started":"2025-11-29T10:00:00Z"},"execution_id":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &pb.ProcessorCompleted{
		Pipeline: "nba", Date: "2025-11-29", Phase: "phase_2_raw", Processor: "BdlGamesProcessor", Status: "succeeded", Records: 150, CorrelationId: "c",
		StartedAt: m.GetStartedAt(),
	}
	if !proto.Equal(m, want) || m.GetStartedAt().AsTime().Hour() != 10 {
		t.Errorf("%v", m)
	}
	extra, err := adapter().Read([]byte(`{"processor_name":"X","phase":"phase_2_extra","game_date":"2025-11-29","status":"done"}`))
	if err != nil || extra.GetPhase() != "phase_2_extra" || extra.GetStatus() != "succeeded" {
		t.Errorf("%v, %v", extra, err)
	}
}

func TestAdapterListsEveryFault(t *testing.T) {
	t.Parallel()
	for body, want := range map[string][]string{
		`nonsense`: {"not a JSON object"},
		`[1]`:      {"not a JSON object"},
		`{}`:       {`"game_date" is missing`, `"processor_name" is missing`, `"status" is missing`},
		`{"processor_name":"X","game_date":"2025-11-29","status":"odd","record_count":"many","meta":{"started":"noon"}}`: {
			`"odd", which the pipeline's status map does not have`, `"record_count" is "many"`, `"meta.started" is "noon"`},
		`{"processor_name":"X","game_date":"soon","status":"success"}`: {`"soon" is not a date`},
	} {
		_, err := adapter().Read([]byte(body))
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: no %s in %v", body, w, err)
			}
		}
	}
}

func FuzzAdapter(f *testing.F) {
	for _, s := range []string{`{"processor_name":"X","game_date":"2025-11-29","status":"success"}`, `{"meta":1,"status":{}}`, `{"attempt":99999999999}`, `{"attempt":-1}`, "\xff"} {
		f.Add([]byte(s))
	}
	a := adapter()
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := a.Read(b)
		if err == nil && (tracker.Check(m) != nil || m.GetAttempt() < 0) {
			t.Fatalf("%s was read as %v", b, m)
		}
	})
}
