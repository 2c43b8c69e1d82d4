package command

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	pb "sluice.dev/proto/gen/sluice/v1"
)

func (a *app) events() *cobra.Command {
	return &cobra.Command{
		Use: "events ID", Short: "Print the journal of a backfill: everything that happened, the oldest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stream, err := a.client().Events(cmd.Context(), connect.NewRequest(&pb.EventsRequest{BackfillId: args[0]}))
			if err != nil {
				return err
			}
			for stream.Receive() {
				e := stream.Msg().GetEvent()
				if a.output == "json" {
					err = a.json(e)
				} else {
					_, err = fmt.Fprintln(a.Out, eventLine(e))
				}
				if err != nil {
					return err
				}
			}
			return stream.Err()
		},
	}
}

// eventLine is a line of the journal for people.
func eventLine(e *pb.BackfillEvent) string {
	var s strings.Builder
	_, _ = fmt.Fprintf(&s, "%s %s", e.GetAt().AsTime().Local().Format(time.StampMilli), e.GetKind())
	where := []string{}
	for _, part := range []string{e.GetDate(), e.GetPhase(), e.GetProcessor()} {
		if part != "" {
			where = append(where, part)
		}
	}
	if len(where) > 0 {
		s.WriteString(" " + strings.Join(where, "/"))
	}
	if e.GetAttempt() > 0 {
		_, _ = fmt.Fprintf(&s, " attempt %d", e.GetAttempt())
	}
	if e.GetDurationSeconds() > 0 {
		_, _ = fmt.Fprintf(&s, " in %.1fs", e.GetDurationSeconds())
	}
	if e.GetRecords() > 0 {
		_, _ = fmt.Fprintf(&s, " %d", e.GetRecords())
	}
	for _, part := range append([]string{e.GetMessage()}, e.GetFaults()...) {
		if part != "" {
			s.WriteString(": " + part)
		}
	}
	if e.GetRequestedBy() != "" {
		s.WriteString(" (" + e.GetRequestedBy() + ")")
	}
	return s.String()
}
