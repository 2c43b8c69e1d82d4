package command

import (
	"fmt"
	"text/tabwriter"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
)

func (a *app) preflight() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "preflight -f REQUEST", Short: "Look whether everything that a request needs is there", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := a.request(file)
			if err != nil {
				return err
			}
			answer, err := a.client().Preflight(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			m := answer.Msg
			if a.output == "json" {
				err = a.json(m)
			} else {
				w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
				_, _ = fmt.Fprintln(w, "CHECK\tRESULT\tDETAIL\tTO DO")
				for _, f := range m.GetFindings() {
					_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.GetCheck(), f.GetResult(), f.GetDetail(), f.GetDo())
				}
				err = w.Flush()
			}
			if err == nil && !m.GetPassed() {
				err = exit{code: 1}
			}
			return err
		},
	}
	requestFlag(cmd, &file)
	return cmd
}
