package gcpbus_test

import (
	"strings"
	"testing"

	"sluice.dev/pkg/bus"
	"sluice.dev/pkg/bus/gcpbus"
	"sluice.dev/pkg/event"
)

func TestCheckListsWhatIsMissing(t *testing.T) {
	t.Parallel()
	b, _ := open(t)
	sub := bus.Subscription{Consumer: "gate", Topic: event.TopicCompletions}
	if err := b.Create(t.Context(), gcpbus.Topology{}, []string{event.TopicRequests}, sub); err != nil {
		t.Fatal(err)
	}
	if errs := b.Checker([]string{event.TopicRequests, event.TopicCompletions}, sub).Check(t.Context()); len(errs) != 0 {
		t.Errorf("%v", errs)
	}
	errs := b.Checker([]string{event.TopicControls}, bus.Subscription{Consumer: "nobody", Topic: event.TopicCompletions}).Check(t.Context())
	if len(errs) != 2 || !strings.Contains(errs[0].Error(), "no topic backfill-controls") || !strings.Contains(errs[1].Error(), "no subscription nobody.processor-completions") {
		t.Errorf("%v", errs)
	}
}
