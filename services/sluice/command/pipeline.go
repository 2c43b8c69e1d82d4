package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sluice.dev/pkg/pipeline"
)

func (a *app) pipeline() *cobra.Command {
	cmd := &cobra.Command{Use: "pipeline", Short: "Work with pipeline files"}
	cmd.AddCommand(&cobra.Command{
		Use: "check FILE", Short: "Check a pipeline file", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := pipeline.Load(args[0], nil)
			var faults pipeline.Faults
			if errors.As(err, &faults) {
				_, _ = fmt.Fprintln(a.Err, faults.Error())
				return exit{code: 1}
			}
			if err != nil {
				return err
			}
			n := 0
			for i := range p.Phases {
				n += len(p.Phases[i].Processors)
			}
			_, err = fmt.Fprintf(a.Out, "%s: pipeline %s is fine: %d phases, %d processors per date\n", args[0], p.Name, len(p.Phases), n)
			return err
		},
	})
	return cmd
}
