package scenario_test

import (
	"fmt"
	"testing"
	"time"

	"sluice.dev/pkg/event"
	pb "sluice.dev/proto/gen/sluice/v1"
	"sluice.dev/services/sluice/platform"
)

func TestCloudRequestByGcloud(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 5, Faults: platform.DefaultFaults()}})
	const n = 30
	dates := c.dates(n)
	c.gcloud(event.TopicRequests, fmt.Sprintf(`{"backfill_id":"by-gcloud","pipeline":"nba","dates":{"range":{"start":%q,"end":%q}}}`, dates[0], dates[n-1]))
	c.completes("by-gcloud", n)
	assertNoneAgain(t, c.platform, nil, 0)
}

// The tracker and the gate are push endpoints here.
func TestCloudRequestAsCloudEventWithPush(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 6, Faults: platform.DefaultFaults()}, push: true})
	const n = 30
	dates := c.dates(n)
	m := &pb.BackfillRequested{BackfillId: "by-event", Pipeline: "nba", Dates: &pb.DateSelection{Range: &pb.DateRange{Start: dates[0], End: dates[n-1]}}}
	if err := c.bus.Publish(t.Context(), event.TopicRequests, event.New(event.TypeRequested, "//test", "by-event", time.Now(), m)); err != nil {
		t.Fatal(err)
	}
	c.completes("by-event", n)
	assertNoneAgain(t, c.platform, nil, 0)
}

// Without faults of the platform every processor has to be called once; with two instances of each service,
// never under two keys.
func TestCloudTwoInstances(t *testing.T) {
	t.Parallel()
	c := newCloud(t, cloudOptions{Options: platform.Options{Speed: 100, Seed: 8}, instances: 2})
	const n = 30
	c.submit("twice", n)
	c.completes("twice", n)
	assertNoneAgain(t, c.platform, nil, 0)
	keys := map[string]string{}
	for _, call := range c.platform.Calls() {
		for _, p := range call.Processors {
			run := call.Path + " " + p + " " + call.Date
			if before, ok := keys[run]; ok && before != call.Key {
				t.Errorf("%s was called with %s and with %s", run, before, call.Key)
			}
			keys[run] = call.Key
		}
	}
}
