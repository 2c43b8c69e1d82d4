package command

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"sluice.dev/pkg/report"
	pb "sluice.dev/proto/gen/sluice/v1"
)

func (a *app) verify() *cobra.Command {
	var checks []string
	cmd := &cobra.Command{
		Use: "verify ID", Short: "Run the pipeline's data checks over the dates of a backfill", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := a.client().Verify(cmd.Context(), connect.NewRequest(&pb.VerifyRequest{BackfillId: args[0], Checks: checks}))
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = a.json(answer.Msg)
			} else {
				err = a.checks(answer.Msg.GetResults())
			}
			if err == nil && !answer.Msg.GetPassed() {
				err = exit{code: 2}
			}
			return err
		},
	}
	cmd.Flags().StringSliceVar(&checks, "checks", nil, "only these checks")
	return cmd
}

// checks prints a table of checks, and one of the dates that fail.
func (a *app) checks(results []*pb.CheckResult) error {
	if len(results) == 0 {
		_, err := fmt.Fprintln(a.Out, "the pipeline declares no data checks for the phases of this backfill")
		return err
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "CHECK\tAFTER\tRESULT\tDATES\tFAIL\tFOUND")
	failures := 0
	for _, r := range results {
		failures += len(r.GetFailures())
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", r.GetCheck(), r.GetAfter(), r.GetResult(), r.GetDates(), len(r.GetFailures()), r.GetDetail())
	}
	if failures > 0 {
		_, _ = fmt.Fprintln(w, "\nDATE\tCHECK\tFOUND")
	}
	for _, r := range results {
		for _, f := range r.GetFailures() {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n", f.GetDate(), r.GetCheck(), f.GetDetail())
		}
	}
	return w.Flush()
}

func (a *app) report() *cobra.Command {
	return &cobra.Command{
		Use: "report ID", Short: "Tell in Markdown what a backfill came to, from its journal", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			answer, err := a.client().Report(cmd.Context(), connect.NewRequest(&pb.ReportRequest{BackfillId: args[0]}))
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(answer.Msg)
			}
			_, err = fmt.Fprint(a.Out, report.Markdown(answer.Msg.GetReport()))
			return err
		},
	}
}

func (a *app) rollback() *cobra.Command {
	var yes, plan bool
	cmd, m, wait := a.controlCommand("rollback", "Delete what phases of an ended backfill wrote, after a snapshot, or put it back")
	cmd.Flags().StringSliceVar(&m.Phases, "phases", nil, "the phases whose output is deleted")
	cmd.Flags().StringSliceVar(&m.Dates, "dates", nil, "only these dates")
	cmd.Flags().BoolVar(&m.Rerun, "rerun", false, "start a new backfill of the same cells afterwards")
	cmd.Flags().BoolVar(&m.Undo, "undo", false, "put back what the newest rollback has deleted")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&plan, "plan", false, "only say what would be deleted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		asked(m, args[0])
		answer, err := a.client().PlanRollback(cmd.Context(), connect.NewRequest(m))
		if err != nil {
			return err
		}
		if plan && a.output == "json" {
			return a.json(answer.Msg)
		}
		if plan || !yes {
			if err := a.tables(answer.Msg.GetPlan()); err != nil || plan {
				return err
			}
		}
		if !yes {
			if err := a.confirm(); err != nil {
				return err
			}
		}
		return a.runControl(cmd.Context(), m, *wait)
	}
	return cmd
}

// tables prints what a rollback is going to do.
func (a *app) tables(p *pb.RollbackPlan) error {
	what, dates := "delete", p.GetDates()
	if p.GetUndo() {
		what = "put back"
	}
	_, _ = fmt.Fprintf(a.Out, "rollback %s of %s: %s %s for %d dates (%s to %s), in this order:\n", p.GetId(), p.GetBackfillId(), what,
		strings.Join(p.GetPhases(), ", "), len(dates), dates[0], dates[len(dates)-1])
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "TABLE\tPHASE\tROWS\tBYTES\tSTATE\tSNAPSHOT")
	for _, t := range p.GetTables() {
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", t.GetTable(), t.GetPhase(), t.GetRows(), t.GetBytes(), t.GetState(), t.GetSnapshot())
	}
	for _, n := range p.GetNotes() {
		_, _ = fmt.Fprintf(w, "note: %s\n", n)
	}
	return w.Flush()
}

// confirm asks the person at the terminal. Without one nothing is done.
func (a *app) confirm() error {
	if !terminal(a.In) {
		return fmt.Errorf("rollback: nobody to ask, as stdin is no terminal: give --yes once the plan is right, and see it with --plan")
	}
	_, _ = fmt.Fprint(a.Err, "go on? [y/N] ")
	var word string
	_, _ = fmt.Fscanln(a.In, &word) // an empty answer is a no
	if word = strings.ToLower(word); word != "y" && word != "yes" {
		return fmt.Errorf("rollback: nothing was done")
	}
	return nil
}
