package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Server is the part of sandlot that runs on the server's side. Its methods get
// a validated configuration with derived values filled in. They return when
// done or when ctx ends.
type Server interface {
	// Serve runs the server until ctx ends, which is no error. What to paste
	// goes to stdout once it answers, words and logs to stderr.
	Serve(ctx context.Context, cfg config.Config, stdout, stderr io.Writer) error
	// Setup does everything Serve needs, without serving; progress goes to stderr.
	Setup(ctx context.Context, cfg config.Config, stderr io.Writer) error
	// StopAll ends every sandbox of the data directory.
	StopAll(ctx context.Context, cfg config.Config) error
	// Purge removes the data directory and every trace of its server.
	Purge(ctx context.Context, cfg config.Config) error
	// Doctor tries what the host offers. Missing features are no error.
	Doctor(ctx context.Context, cfg config.Config) ([]driver.Feature, error)
	// Trust makes this machine's programs trust the server's local CA, and
	// Distrust undoes it; both tell words what they did.
	Trust(ctx context.Context, cfg config.Config, words io.Writer) error
	Distrust(ctx context.Context, cfg config.Config, words io.Writer) error
	// TrustFiles returns the certificate of the local CA, and a file of it and
	// all others that are trusted.
	TrustFiles(cfg config.Config) (root, bundle string, err error)
}

// errNoServer is what a program built without a server says.
var errNoServer = errs.New(errs.Unsupported, "this build of sandlot has no server").
	WithHint("build the whole program with: make build")

// withServer loads the configuration and calls do.
func (a *app) withServer(flags map[string]string, do func(config.Config) error) error {
	if a.server == nil {
		return errNoServer
	}
	loaded, err := a.config(flags)
	if err != nil {
		return err
	}
	return do(loaded.Config)
}

func (a *app) serveCommand() *cobra.Command {
	var addr, domain string
	var stopAll bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Run the server until Ctrl-C. Sandboxes outlive it: the next start finds them
again. Everything that can be told to it is listed by: sandlot config show`,
		Example: `  sandlot serve
  sandlot serve --addr 127.0.0.1:8000 --data-dir /srv/sandlot
  sandlot serve --stop-all`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withServer(map[string]string{"addr": addr, "domain": domain}, func(cfg config.Config) error {
				if stopAll {
					return a.server.StopAll(cmd.Context(), cfg)
				}
				return a.server.Serve(cmd.Context(), cfg, a.stdio.Out, a.stdio.Err)
			})
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "", "listen on this host:port (default "+config.Default().Addr+")")
	cmd.Flags().StringVar(&domain, "domain", "", "publish ports of sandboxes as <port>-<id>.<domain>")
	cmd.Flags().BoolVar(&stopAll, "stop-all", false, "end every sandbox of the data directory and exit")
	return a.configFlag(cmd)
}
