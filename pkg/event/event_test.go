package event_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sluice.dev/pkg/event"
	"sluice.dev/pkg/fault"
	pb "sluice.dev/proto/gen/sluice/v1"
)

var now = time.Date(2024, 5, 1, 0, 0, 0, 0, time.UTC)

func TestUnmarshalNamesEveryUnknownField(t *testing.T) {
	t.Parallel()
	err := event.Unmarshal([]byte(`{"pipeline":"nba","speed":1,"dates":{"season":["x"],"range":{"begin":"y"}},"limits":{"one":{"max":1}}}`), new(pb.BackfillRequested))
	got := strings.Join(fault.Faults(err), "\n")
	for _, want := range []string{`"speed"`, `"dates.season"`, `"dates.range.begin"`, `"limits.one.max"`} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in:\n%s", want, got)
		}
	}
}

func TestUnmarshal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, fault string }{
		"snake case":      {`{"backfill_id":"a","validate_first":5,"budget_usd":1.5,"accept_gaps":["2024-01-01"]}`, ""},
		"camel case":      {`{"backfillId":"a","validateFirst":5}`, ""},
		"null is absent":  {`{"backfill_id":null,"dates":null}`, ""},
		"not JSON":        {`{"backfill_id":`, "not JSON"},
		"two values":      {`{} {}`, "something follows"},
		"no object":       {`[]`, "must be a JSON object"},
		"a wrong type":    {`{"validate_first":"many"}`, "validate_first"},
		"a fraction":      {`{"validate_first":1.5}`, "validate_first"},
		"given two times": {`{"backfill_id":"a","backfillId":"b"}`, "duplicate"},
	} {
		err := event.Unmarshal([]byte(c.body), new(pb.BackfillRequested))
		if (err == nil) != (c.fault == "") || (err != nil && !strings.Contains(err.Error(), c.fault)) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v is worth another try", name, err)
		}
	}
}

func TestFromHTTP(t *testing.T) {
	t.Parallel()
	bare := `{"pipeline":"nba","date":"2024-01-01","phase":"one","processor":"p","status":"succeeded"}`
	binary := map[string]string{"Ce-Specversion": "1.0", "Ce-Id": "7", "Ce-Type": event.TypeCompleted, "Ce-Source": "//x", "Ce-Subject": "s", "Content-Type": "application/json"}
	both := maps.Clone(binary)
	both["Idempotency-Key"] = "k"
	structured := map[string]string{"Content-Type": "application/cloudevents+json; charset=utf-8"}
	for name, c := range map[string]struct {
		topic   string
		headers map[string]string
		body    string
		id      string
		fault   string
	}{
		"bare JSON":             {event.TopicCompletions, nil, bare, "given", ""},
		"a key":                 {event.TopicCompletions, map[string]string{"Idempotency-Key": "k"}, bare, "k", ""},
		"a long key":            {event.TopicCompletions, map[string]string{"Idempotency-Key": strings.Repeat("k", 256)}, bare, "given", "has 256 bytes: at most 255"},
		"a key and an id":       {event.TopicCompletions, both, bare, "7", ""},
		"binary mode":           {event.TopicCompletions, binary, bare, "7", ""},
		"structured mode":       {event.TopicCompletions, structured, `{"specversion":"1.0","id":"8","type":"` + event.TypeCompleted + `","source":"//x","data":` + bare + `}`, "8", ""},
		"another type":          {event.TopicControls, binary, bare, "7", "takes events of type " + event.TypeControlled},
		"no CloudEvent":         {event.TopicCompletions, structured, `{"specversion":"1.0"`, "given", "cannot be read"},
		"an invalid CloudEvent": {event.TopicCompletions, structured, `{"specversion":"1.0","id":"","type":"x","source":"//x","data":{}}`, "", "not valid"},
		"garbage":               {event.TopicCompletions, nil, "x", "given", "not JSON"},
		"too large":             {event.TopicCompletions, nil, strings.Repeat("x", event.MaxBody+1), "given", "larger than"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
		for k, v := range c.headers {
			r.Header.Set(k, v)
		}
		r.Header.Set("Traceparent", "00-1-2-01")
		e, err := event.FromHTTP(r, c.topic, "given", now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		bad := e.Err()
		if (bad == nil) != (c.fault == "") || (bad != nil && !strings.Contains(bad.Error(), c.fault)) || e.ID != c.id {
			t.Errorf("%s: id %q, %v", name, e.ID, bad)
		}
		if bad == nil && (e.Data.(*pb.ProcessorCompleted).GetProcessor() != "p" || e.Type != event.TypeCompleted || e.Trace != "00-1-2-01") {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestAnotherSystemsTopicStaysRaw(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"theirs":1}`))
	e, err := event.FromHTTP(r, "their-topic", "id", now)
	if err != nil || e.Data != nil || string(e.Raw) != `{"theirs":1}` || e.Err() != nil {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestTheSameFactHasTheSameID(t *testing.T) {
	t.Parallel()
	m := &pb.PhaseTriggered{Phase: "one"}
	a := event.New(event.TypeTriggered, "x", "b/2024-01-01/one", now, m, "p")
	b := event.New(event.TypeTriggered, "y", "b/2024-01-01/one", now.Add(time.Hour), m, "p")
	c := event.New(event.TypeTriggered, "x", "b/2024-01-01/one", now, m, "q")
	if a.ID != b.ID || a.ID == c.ID {
		t.Error(a.ID, b.ID, c.ID)
	}
	if event.Subject("b", "d", "", "") != "b/d" || event.Subject("b", "d", "p", "q") != "b/d/p/q" {
		t.Error("subject")
	}
	tp := event.Traceparent("b", "d", "k")
	if len(tp) != 55 || tp != event.Traceparent("b", "d", "k") || tp[:36] != event.Traceparent("b", "d", "other")[:36] {
		t.Error(tp)
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{`{}`, `{"backfill_id":"a","dates":{"seasons":["x"]}}`, `{"limits":{"a":{"max_dates":1}}}`, `{"budget_usd":1e400}`, `{"a":{"b":[{}]}}`, `null`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(pb.BackfillRequested)
		if event.Unmarshal(b, m) != nil {
			return
		}
		out, err := event.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		back := new(pb.BackfillRequested)
		if err := event.Unmarshal(out, back); err != nil || !proto.Equal(m, back) {
			t.Fatalf("%s became %s (%v)", b, out, err)
		}
	})
}

func TestTheJournalsNumbersAreNumbers(t *testing.T) {
	t.Parallel()
	e := event.Journal("//test", time.Now(), &pb.BackfillEvent{Kind: "succeeded", Records: 150, BytesBilled: 1 << 40, Message: `said "records":"7"`})
	ce, err := e.CloudEvent()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Records     int64  `json:"records"`
		BytesBilled int64  `json:"bytes_billed"`
		Message     string `json:"message"`
	}
	if err := json.Unmarshal(ce.Data(), &got); err != nil || got.Records != 150 || got.BytesBilled != 1<<40 || got.Message != `said "records":"7"` {
		t.Errorf("%+v, %v in %s", got, err, ce.Data())
	}
	back, err := event.Decode(event.TypeJournal, ce.Data())
	if err != nil || back.(*pb.BackfillEvent).GetRecords() != 150 {
		t.Errorf("%v, %v", back, err)
	}
}
