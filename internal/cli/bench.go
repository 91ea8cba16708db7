package cli

import (
	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/internal/bench"
)

func (a *app) benchCommand() *cobra.Command {
	var only []string
	var quick bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the server beside this machine's own floor",
		Long: `Measure the server beside what this machine can do at best, in the same run:
a local fork, exec and wait, what find and dd do inside a sandbox, and runc and
nginx (package nginx-light) where they are installed. Every sandbox made is
removed, also after Ctrl-C. Other load on the machine shows in the figures;
minimums and ratios are the least disturbed.`,
		Example: `  sandlot bench
  sandlot bench --quick --only create-hot,command
  sandlot bench --json > bench.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			report, err := bench.Run(cmd.Context(), bench.Options{Client: c, Only: only, Quick: quick, Progress: a.stdio.Err})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(report)
			}
			return report.WriteTable(a.stdio.Out)
		},
	}
	cmd.Flags().StringSliceVar(&only, "only", nil, "measure only these rows: "+bench.RowNames())
	cmd.Flags().BoolVar(&quick, "quick", false, "take fewer samples")
	return cmd
}
