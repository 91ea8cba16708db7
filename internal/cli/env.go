package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

func (a *app) envCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: "Print the variables E2B programs need to find the server",
		Example: `  eval "$(sandlot env)"
  sandlot env --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.localClient()
			if err != nil {
				return err
			}
			if c.APIKey() == "" {
				return errs.New(errs.Unauthenticated, "no API key found for %s", c.APIURL()).
					WithHint("start a server with: sandlot serve; its key can be read by root, or by its own user")
			}
			vars := []struct{ name, value string }{
				{"E2B_API_URL", c.APIURL()},
				{"E2B_SANDBOX_URL", c.SandboxURL()},
				{"E2B_VOLUME_API_URL", c.APIURL()},
				{"E2B_API_KEY", c.APIKey()},
			}
			if a.json {
				m := map[string]string{}
				for _, v := range vars {
					m[v.name] = v.value
				}
				return a.printJSON(m)
			}
			for _, v := range vars {
				if _, err := fmt.Fprintf(a.stdio.Out, "export %s=%s\n", v.name, quote(v.value)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// quote writes s for a shell, plain if it may be.
func quote(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/._-", r)
	}) < 0
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
