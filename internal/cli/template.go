package cli

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/internal/config"
)

func (a *app) templateCommand() *cobra.Command {
	return noun("template", "See what sandboxes are made from", a.templateListCommand(), a.templateSetCommand())
}

func (a *app) templateListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the templates",
		Example: `  sandlot template list
  sandlot template list --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			templates, err := c.Templates(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(templates)
			}
			t := a.newTable("TEMPLATE", "NAMES", "STATUS", "CPUS", "MEMORY", "DISK", "CREATED")
			for _, tpl := range templates {
				t.row(tpl.ID, strings.Join(tpl.Aliases, ","), tpl.Status, strconv.Itoa(tpl.CPUs),
					mib(tpl.MemoryMB), mib(tpl.DiskMB), stamp(tpl.CreatedAt))
			}
			return t.done()
		},
	}
}

// mib formats a number of MiB as people write it.
func mib(n int) string { return (config.Size(n) * config.MiB).String() }
