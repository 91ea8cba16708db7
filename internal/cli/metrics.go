package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/config"
)

func (a *app) sandboxMetricsCommand() *cobra.Command {
	var since config.Duration
	cmd := &cobra.Command{
		Use:   "metrics ID",
		Short: "Show what a sandbox has used",
		Long: `Show what a sandbox has used since it started, the latest last.

There is a line for every 5 seconds, and fewer for times longer ago. CPU is a share of all
the sandbox's processors, CACHE what caches files and is given back when it is needed.`,
		Example: `  sandlot sandbox metrics i8f3k2…
  sandlot sandbox metrics i8f3k2… --since 1m --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var from time.Time
			if since > 0 {
				from = time.Now().Add(-since.Std())
			}
			all, err := c.Metrics(cmd.Context(), args[0], from, time.Time{})
			if err != nil {
				return err
			}
			return a.printMetrics(all)
		},
	}
	cmd.Flags().Var(&since, "since", "only the latest, e.g. 10m (default: since its start)")
	cmd.Flags().Lookup("since").DefValue = "0" // keeps "(default 0s)" out of the help
	return cmd
}

func (a *app) printMetrics(all []client.Metric) error {
	if a.json {
		return a.printJSON(all)
	}
	t := a.newTable("TIME", "CPU", "MEMORY", "CACHE", "DISK")
	for _, m := range all {
		t.row(stamp(m.At), fmt.Sprintf("%.1f%% of %d", m.CPUPercent, m.CPUs),
			share(m.MemoryUsed, m.MemoryTotal), mib(int(m.MemoryCache>>20)), share(m.DiskUsed, m.DiskTotal))
	}
	return t.done()
}

// share says how much of a number of bytes is used.
func share(used, total int64) string {
	return fmt.Sprintf("%s of %s", mib(int(used>>20)), mib(int(total>>20)))
}
