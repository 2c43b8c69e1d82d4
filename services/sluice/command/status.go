package command

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	pb "sluice.dev/proto/gen/sluice/v1"
)

func (a *app) status() *cobra.Command {
	return &cobra.Command{
		Use: "status [ID]", Short: "Show all backfills, or one in full", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return a.list(cmd.Context())
			}
			answer, err := a.client().Get(cmd.Context(), connect.NewRequest(&pb.GetRequest{BackfillId: args[0]}))
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(answer.Msg)
			}
			return a.describe(answer.Msg.GetBackfill())
		},
	}
}

func (a *app) list(ctx context.Context) error {
	answer, err := a.client().List(ctx, connect.NewRequest(&pb.ListRequest{}))
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.json(answer.Msg)
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tPIPELINE\tSTATE\tDATES\tCREATED\tNOTE")
	for _, b := range answer.Msg.GetBackfills() {
		note := strings.Join(b.GetFaults(), "; ")
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d/%d\t%s\t%s\n", b.GetId(), b.GetPipeline(), b.GetState(),
			b.GetDates().GetComplete(), b.GetDates().GetTotal(), b.GetCreatedAt().AsTime().Local().Format(time.DateTime), note)
	}
	return w.Flush()
}

func (a *app) describe(b *pb.Backfill) error {
	out := a.Out
	_, _ = fmt.Fprintf(out, "%s  pipeline %s  %s\n", b.GetId(), b.GetPipeline(), b.GetState())
	for _, f := range b.GetFaults() {
		_, _ = fmt.Fprintf(out, "  refused: %s\n", f)
	}
	for _, n := range b.GetNotices() {
		_, _ = fmt.Fprintf(out, "  note: %s\n", n)
	}
	d := b.GetDates()
	_, _ = fmt.Fprintf(out, "dates  %d of %d complete, %d failed, %d blocked\n", d.GetComplete(), d.GetTotal(), d.GetFailed(), d.GetBlocked())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(w, "phase\tdates\truns\tsucceeded\tskipped\twaived\tin flight\tretrying\texhausted\tpending\t")
	for _, p := range b.GetPhases() {
		r := p.GetRuns()
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", p.GetId(), p.GetDatesComplete(), r.GetTotal(), r.GetSucceeded(),
			r.GetSkipped(), r.GetWaived(), r.GetInFlight(), r.GetRetrying(), r.GetExhausted(), r.GetPending())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "attempts %d, throttles %d, %.1f runs/s, %s%s\n", b.GetAttempts(), b.GetThrottles(), b.GetRatePerSecond(), spending(b), eta(b))
	for _, t := range b.GetRollback() {
		_, err = fmt.Fprintf(out, "  rollback: %s %s, %d rows, snapshot %s\n", t.GetTable(), t.GetState(), t.GetDeleted(), t.GetSnapshot())
	}
	return err
}

// spending is what was spent, of what, and what it will be.
func spending(b *pb.Backfill) string {
	s := fmt.Sprintf("spend $%.2f", b.GetSpendUsd())
	if b.GetBudgetUsd() > 0 {
		s += fmt.Sprintf(" of $%.2f (%.0f%%)", b.GetBudgetUsd(), 100*b.GetSpendUsd()/b.GetBudgetUsd())
	}
	if b.GetForecastUsd() > 0 && !ended(b.GetState()) {
		s += fmt.Sprintf(", about $%.2f at the end", b.GetForecastUsd())
	}
	return s
}

func eta(b *pb.Backfill) string {
	if b.GetEta() == nil {
		return ""
	}
	return ", about " + max(time.Second, time.Until(b.GetEta().AsTime()).Round(time.Second)).String() + " left"
}

func (a *app) failures() *cobra.Command {
	return &cobra.Command{
		Use: "failures ID", Short: "List what failed for good, and what that blocks", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := a.client().ListFailures(cmd.Context(), connect.NewRequest(&pb.ListFailuresRequest{BackfillId: args[0]}))
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = a.json(answer.Msg)
			} else {
				for _, f := range answer.Msg.GetFailures() {
					_, _ = fmt.Fprintf(a.Out, "%s %s %s: %d attempts: %s: %s\n", f.GetDate(), f.GetPhase(), f.GetProcessor(),
						f.GetAttempts(), f.GetLastError(), blocks(f))
				}
			}
			if err == nil && len(answer.Msg.GetFailures()) > 0 {
				return exit{code: 2}
			}
			return err
		},
	}
}

func blocks(f *pb.Failure) string {
	if f.GetBlocksTotal() == 0 {
		return "blocks nothing"
	}
	const show = 3
	names := make([]string, 0, show)
	for _, c := range f.GetBlocks()[:min(show, len(f.GetBlocks()))] {
		names = append(names, c.GetDate()+" "+c.GetPhase())
	}
	more := ""
	if n := int(f.GetBlocksTotal()) - len(names); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return "blocks " + strings.Join(names, ", ") + more
}
