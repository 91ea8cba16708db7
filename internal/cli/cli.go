// Package cli is the command line of sandlot: one file per noun, errors as
// "error:" and "hint:", data on standard output and words on standard error.
// It speaks to a server through the public client only; what needs the server's
// own code comes in as the interface Server. Only cmd/sandlot imports it.
package cli

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Stdio is what a command reads and writes.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is one invocation.
type app struct {
	env    []string
	stdio  Stdio
	server Server

	// Flags every command has.
	json    bool
	dataDir string
	apiURL  string
	file    string

	// started says that the command line was understood.
	started bool
}

// Main runs one command line (without the program's name) and returns its exit
// code. When ctx ends, commands stop and undo what they began; its cause says
// why. A nil server refuses the commands that need one.
func Main(ctx context.Context, args, env []string, stdio Stdio, server Server) int {
	a := &app{env: env, stdio: stdio, server: server}
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	return a.report(ctx, cmd, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "sandlot",
		Short: "Run code in isolated sandboxes on this machine",
		Long: `Sandlot turns this machine into an E2B: the official SDKs and this program talk
to one server, which starts isolated sandboxes in milliseconds.`,
		Example: `  sandlot serve
  eval "$(sandlot env)"
  sandlot run -- python3 -c 'print(1)'
  sandlot sandbox list`,
		// --version says what "sandlot version" says.
		Version:       buildVersion().String(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
		},
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetIn(a.stdio.In)
	root.SetOut(a.stdio.Out)
	root.SetErr(a.stdio.Err)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print data as JSON")
	root.PersistentFlags().StringVar(&a.dataDir, "data-dir", "", "where the server keeps its data (default "+config.Default().DataDir+")")
	root.PersistentFlags().StringVar(&a.apiURL, "api-url", "", "the server's URL (default: E2B_API_URL, else the local server)")
	root.AddCommand(
		a.serveCommand(), a.setupCommand(), a.purgeCommand(), a.doctorCommand(), a.trustCommand(), a.configCommand(),
		a.envCommand(), a.runCommand(), a.sandboxCommand(), a.templateCommand(), a.keyCommand(),
		a.benchCommand(), a.versionCommand(),
	)
	return root
}

// noun returns a command that only groups others.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(verbs...)
	return cmd
}

// getenv looks up a variable of the invocation's environment.
func (a *app) getenv(name string) string {
	for _, pair := range a.env {
		if key, value, _ := strings.Cut(pair, "="); key == name {
			return value
		}
	}
	return ""
}

// client returns what speaks to the server.
func (a *app) client() (*client.Client, error) {
	return client.New(client.Options{APIURL: a.apiURL, DataDir: a.dataDir, Env: a.getenv})
}

// localClient is the client of this machine's server if there is one, whatever
// the environment names: what env prints must not be what was set before.
func (a *app) localClient() (*client.Client, error) {
	c, err := client.New(client.Options{APIURL: a.apiURL, DataDir: a.dataDir, Env: a.localEnv})
	if err != nil || c.APIKey() == "" {
		return a.client()
	}
	return c, nil
}

// localEnv is getenv without what names a server.
func (a *app) localEnv(name string) string {
	if strings.HasPrefix(name, "E2B_") {
		return ""
	}
	return a.getenv(name)
}

// config loads the server's configuration; flags holds further values by key.
func (a *app) config(flags map[string]string) (config.Loaded, error) {
	given := map[string]string{}
	if a.dataDir != "" {
		given["data_dir"] = a.dataDir
	}
	for key, value := range flags {
		if value != "" {
			given[key] = value
		}
	}
	loaded, err := config.Load(config.Sources{File: a.file, Env: a.getenv, Flags: given})
	if err != nil {
		return loaded, err
	}
	memory, err := hostMemory()
	if err != nil {
		return loaded, errs.Wrap(err, errs.Unsupported, "cannot tell how much memory this host has")
	}
	loaded.Derive(memory)
	return loaded, nil
}

// configFlag adds --config to a command that runs the server's code.
func (a *app) configFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.file, "config", "", "the configuration file (default: "+config.FileName+" in the data directory)")
	return cmd
}

// hostMemory returns the host's RAM in bytes.
func hostMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			size, err := config.ParseSize(strings.TrimSpace(rest))
			return size.Bytes(), err
		}
	}
	return 0, errs.New(errs.Unsupported, "/proc/meminfo has no MemTotal")
}
