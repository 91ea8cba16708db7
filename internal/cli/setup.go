package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/internal/config"
)

func (a *app) setupCommand() *cobra.Command {
	return a.configFlag(&cobra.Command{
		Use:   "setup",
		Short: "Prepare everything the server needs, without serving",
		Example: `  sandlot setup
  sandlot setup --data-dir /srv/sandlot`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withServer(nil, func(cfg config.Config) error {
				return a.server.Setup(cmd.Context(), cfg, a.stdio.Err)
			})
		},
	})
}

func (a *app) purgeCommand() *cobra.Command {
	return a.configFlag(&cobra.Command{
		Use:   "purge",
		Short: "End all sandboxes and remove the data directory and every other trace",
		Example: `  sandlot purge
  sandlot purge --data-dir /srv/sandlot`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withServer(nil, func(cfg config.Config) error {
				_, missing := os.Stat(cfg.DataDir)
				if err := a.server.Purge(cmd.Context(), cfg); err != nil {
					return err
				}
				if missing != nil {
					a.say("there was no %s; what a server of that directory left on this host is gone too", cfg.DataDir)
					return nil
				}
				a.say("removed %s and everything its server made", cfg.DataDir)
				return nil
			})
		},
	})
}
