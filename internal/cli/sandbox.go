package cli

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func (a *app) sandboxCommand() *cobra.Command {
	return noun("sandbox", "List, inspect, enter and kill sandboxes",
		a.sandboxListCommand(), a.sandboxInfoCommand(), a.sandboxExecCommand(), a.sandboxShellCommand(),
		a.sandboxWatchCommand(), a.sandboxKillCommand(), a.sandboxMetricsCommand())
}

func (a *app) sandboxListCommand() *cobra.Command {
	var metadata []string
	var template string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the sandboxes, newest first",
		Example: `  sandlot sandbox list
  sandlot sandbox list --metadata job=42 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := parsePairs("--metadata", metadata)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			all, err := collect(cmd.Context(), c, client.Filter{Metadata: want, Template: template})
			if err != nil {
				return err
			}
			return a.printSandboxes(all)
		},
	}
	cmd.Flags().StringArrayVarP(&metadata, "metadata", "m", nil, "only sandboxes with this `KEY=VALUE`; may be repeated")
	cmd.Flags().StringVarP(&template, "template", "t", "", "only sandboxes of this template")
	return cmd
}

// collect lists all pages.
func collect(ctx context.Context, c *client.Client, f client.Filter) ([]client.SandboxInfo, error) {
	all := []client.SandboxInfo{}
	for info, err := range c.List(ctx, f) {
		if err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	return all, nil
}

func (a *app) printSandboxes(all []client.SandboxInfo) error {
	if a.json {
		return a.printJSON(all)
	}
	t := a.newTable("SANDBOX", "TEMPLATE", "STATE", "STARTED", "ENDS IN", "METADATA")
	for _, s := range all {
		t.row(s.ID, templateName(s), string(s.State), stamp(s.StartedAt), left(s.EndAt), pairs(s.Metadata))
	}
	return t.done()
}

func templateName(s client.SandboxInfo) string {
	if s.Alias != "" {
		return s.Alias
	}
	return s.TemplateID
}

func (a *app) sandboxInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "info ID",
		Short: "Describe a sandbox",
		Example: `  sandlot sandbox info i8f3k2…
  sandlot sandbox info i8f3k2… --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.Info(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(s)
			}
			t := a.newTable("sandbox", s.ID)
			t.row("template", templateName(s)+" ("+s.TemplateID+")")
			t.row("state", string(s.State))
			t.row("started", stamp(s.StartedAt))
			t.row("ends", stamp(s.EndAt)+" (in "+left(s.EndAt)+")")
			t.row("cpus", strconv.Itoa(s.CPUs))
			t.row("memory", mib(s.MemoryMB))
			t.row("disk", mib(s.DiskMB))
			t.row("metadata", pairs(s.Metadata))
			return t.done()
		},
	}
}

func (a *app) sandboxKillCommand() *cobra.Command {
	var everything bool
	cmd := &cobra.Command{
		Use:   "kill [ID...]",
		Short: "End sandboxes at once",
		Example: `  sandlot sandbox kill i8f3k2…
  sandlot sandbox kill --all`,
		Args: func(_ *cobra.Command, args []string) error {
			if everything == (len(args) > 0) {
				return errors.New("name sandboxes or give --all, one of the two")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if everything {
				return a.killAll(cmd.Context(), c)
			}
			for _, id := range args {
				if err := c.Kill(cmd.Context(), id); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&everything, "all", false, "end every sandbox of the server")
	return cmd
}

// killAll ends what the list shows. Sandboxes that end meanwhile are no error.
func (a *app) killAll(ctx context.Context, c *client.Client) error {
	all, err := collect(ctx, c, client.Filter{})
	if err != nil {
		return err
	}
	killed := 0
	for _, s := range all {
		switch err := c.Kill(ctx, s.ID); {
		case err == nil:
			killed++
		case !errors.Is(err, client.ErrNotFound):
			return err
		}
	}
	if a.json {
		return a.printJSON(map[string]int{"killed": killed})
	}
	a.say("%d sandboxes ended", killed)
	return nil
}

// parsePairs reads KEY=VALUE words.
func parsePairs(flag string, words []string) (map[string]string, error) {
	m := map[string]string{}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return nil, errs.New(errs.Invalid, "%s %q is not KEY=VALUE", flag, w)
		}
		m[key] = value
	}
	return m, nil
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
