package command

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	pb "sluice.dev/proto/gen/sluice/v1"
)

func (a *app) watch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Watch a backfill to its end", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runWatch(cmd.Context(), args[0]) },
	}
}

// runWatch follows a backfill; a lost connection is made again, as the server may be restarted meanwhile.
func (a *app) runWatch(ctx context.Context, id string) error {
	show := a.plain()
	if a.output == "json" {
		show = func(m *pb.WatchResponse) error { return a.json(m) }
	} else if terminal(a.Out) {
		return a.live(ctx, id)
	}
	last, err := a.follow(ctx, id, false, show)
	if err != nil {
		return err
	}
	return verdictOf(last)
}

// follow streams until the backfill has ended, and returns its last state.
func (a *app) follow(ctx context.Context, id string, dates bool, show func(*pb.WatchResponse) error) (*pb.Backfill, error) {
	var last *pb.Backfill
	lost := time.Time{}
	for {
		stream, err := a.client().Watch(ctx, connect.NewRequest(&pb.WatchRequest{BackfillId: id, IncludeDates: dates}))
		if err == nil {
			for stream.Receive() {
				lost, last = time.Time{}, stream.Msg().GetBackfill()
				if err := show(stream.Msg()); err != nil {
					return last, err
				}
			}
			if err = stream.Err(); err == nil && last != nil && ended(last.GetState()) {
				return last, nil
			}
		}
		if ctx.Err() != nil {
			return last, ctx.Err()
		}
		if lost.IsZero() {
			lost = time.Now()
		}
		if code := connect.CodeOf(err); err != nil && last == nil || code == connect.CodeNotFound || time.Since(lost) > time.Minute {
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// verdictOf is the exit code of a watched backfill.
func verdictOf(b *pb.Backfill) error {
	switch b.GetState() {
	case "completed":
		return nil
	case "incomplete":
		return exit{code: 2}
	case "cancelled":
		return exit{code: 3}
	default:
		return exit{code: 1}
	}
}

// plain prints a line per change.
func (a *app) plain() func(*pb.WatchResponse) error {
	last, told := "", 0
	return func(m *pb.WatchResponse) error {
		for notices := m.GetBackfill().GetNotices(); told < len(notices); told++ {
			if _, err := fmt.Fprintln(a.Out, time.Now().Format(time.TimeOnly), "note:", notices[told]); err != nil {
				return err
			}
		}
		line := summary(m.GetBackfill())
		if line == last {
			return nil
		}
		last = line
		_, err := fmt.Fprintln(a.Out, time.Now().Format(time.TimeOnly), line)
		return err
	}
}

// summary is a backfill in one line.
func summary(b *pb.Backfill) string {
	line := fmt.Sprintf("%s %s dates %d/%d", b.GetId(), b.GetState(), b.GetDates().GetComplete(), b.GetDates().GetTotal())
	for _, p := range b.GetPhases() {
		line += fmt.Sprintf(" %s %d/%d", p.GetId(), done(p), p.GetRuns().GetTotal())
	}
	return line + fmt.Sprintf(" retries %d throttles %d rate %.0f/s %s%s", b.GetRetries(), b.GetThrottles(), b.GetRatePerSecond(), spending(b), eta(b))
}

func done(p *pb.PhaseProgress) int32 {
	r := p.GetRuns()
	return r.GetSucceeded() + r.GetSkipped() + r.GetWaived()
}
