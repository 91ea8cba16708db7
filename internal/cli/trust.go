package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func (a *app) trustCommand() *cobra.Command {
	var uninstall, onlyPrint bool
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Have this machine trust the server's certificates",
		Long: `Put the certificate of the server's local CA into the system's store and the
databases of your browsers, and print the variables for programs that read
neither. The CA is bound to localhost and the configured domain: with its key
nobody can pretend to be another site. Without root, only print the variables.`,
		Example: `  sudo sandlot trust
  eval "$(sandlot trust --print)"
  sudo sandlot trust --uninstall`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if uninstall && onlyPrint {
				return errs.New(errs.Invalid, "--print and --uninstall exclude each other")
			}
			return a.withServer(nil, func(cfg config.Config) error {
				if uninstall {
					return a.server.Distrust(cmd.Context(), cfg, a.stdio.Err)
				}
				root, bundle, err := a.server.TrustFiles(cfg)
				if err == nil && !onlyPrint {
					if err = a.server.Trust(cmd.Context(), cfg, a.stdio.Err); err == nil {
						_, bundle, err = a.server.TrustFiles(cfg) // now the system's may do
					}
				}
				if err != nil {
					return err
				}
				return a.printTrust(root, bundle)
			})
		},
	}
	cmd.Flags().BoolVar(&onlyPrint, "print", false, "only print the variables")
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "take the certificate out again")
	return a.configFlag(cmd)
}

func (a *app) printTrust(root, bundle string) error {
	if a.json {
		return a.printJSON(map[string]string{"NODE_EXTRA_CA_CERTS": root, "SSL_CERT_FILE": bundle})
	}
	_, err := fmt.Fprintf(a.stdio.Out, "export NODE_EXTRA_CA_CERTS=%s\nexport SSL_CERT_FILE=%s\n", quote(root), quote(bundle))
	return err
}
