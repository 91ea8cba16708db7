package cli

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func (a *app) envCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "env",
		Short: "Print the variables E2B programs need to find the server",
		Example: `  eval "$(sandlot env)"
  sandlot env --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.printEnv() },
	}
}

// variable is one of the environment.
type variable struct{ name, value string }

func (a *app) printEnv() error {
	c, err := a.localClient()
	if err != nil {
		return err
	}
	if c.APIKey() == "" {
		return errs.New(errs.Unauthenticated, "no API key found for %s", c.APIURL()).
			WithHint("start a server with: sandlot serve; its key can be read by root, or by its own user")
	}
	vars := a.variables(c)
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
}

// variables are those by which E2B programs find c's server.
func (a *app) variables(c *client.Client) []variable {
	vars := []variable{
		{"E2B_API_URL", c.APIURL()},
		{"E2B_SANDBOX_URL", c.SandboxURL()},
		{"E2B_VOLUME_API_URL", c.APIURL()},
		{"E2B_API_KEY", c.APIKey()},
	}
	if root := a.rootCertificate(c); root != "" {
		vars = append(vars, variable{"NODE_EXTRA_CA_CERTS", root})
	}
	return vars
}

// rootCertificate returns the file of the certificate that Node needs for this
// machine's server, empty if c speaks to another or there is none.
func (a *app) rootCertificate(c *client.Client) string {
	l, err := client.New(client.Options{DataDir: a.dataDir, Env: a.localEnv})
	if err != nil || l.APIURL() != c.APIURL() {
		return ""
	}
	dir := cmp.Or(a.dataDir, a.getenv("SANDLOT_DATA_DIR"), config.Default().DataDir)
	path, err := filepath.Abs(filepath.Join(dir, config.RootCertificate))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
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
