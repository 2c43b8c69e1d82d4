package event

import (
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "sluice.dev/proto/gen/sluice/v1"
)

// Journal makes an event for backfill-events. Its id follows from what happened to whom, so that telling
// it twice is telling it once; parts tell apart what the fields do not.
func Journal(source string, at time.Time, e *pb.BackfillEvent, parts ...string) *Event {
	subject := Subject(e.GetBackfillId(), e.GetDate(), e.GetPhase(), e.GetProcessor())
	ev := New(TypeJournal, source, subject, at, e, append([]string{e.GetKind(), strconv.Itoa(int(e.GetAttempt()))}, parts...)...)
	e.Id, e.At = ev.ID, timestamppb.New(at)
	return ev
}
