package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) configCommand() *cobra.Command {
	return noun("config", "See what the server is told", a.configShowCommand())
}

func (a *app) configShowCommand() *cobra.Command {
	return a.configFlag(&cobra.Command{
		Use:   "show",
		Short: "Print every setting, its value and where the value comes from",
		Long: `Print every setting, its value and where the value comes from. Later sources
win: defaults, the configuration file (TOML), SANDLOT_* variables, flags. The
variable of a key is its name in capitals: pool.max is SANDLOT_POOL_MAX.`,
		Example: `  sandlot config show
  SANDLOT_LIMITS_MEMORY=512M sandlot config show --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			loaded, err := a.config(nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(loaded.Settings())
			}
			t := a.newTable("KEY", "VALUE", "FROM")
			for _, s := range loaded.Settings() {
				t.row(s.Key, fmt.Sprint(s.Value), s.Origin)
			}
			return t.done()
		},
	})
}
