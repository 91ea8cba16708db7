package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/driver"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func (a *app) doctorCommand() *cobra.Command {
	return a.configFlag(&cobra.Command{
		Use:   "doctor",
		Short: "Try what this host offers and say what is missing, what that costs and how to get it",
		Example: `  sandlot doctor
  sandlot doctor --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withServer(nil, func(cfg config.Config) error {
				features, err := a.server.Doctor(cmd.Context(), cfg)
				if err != nil {
					return err
				}
				return a.reportFeatures(features)
			})
		},
	})
}

// reportFeatures prints features; a required one that is missing is an error.
func (a *app) reportFeatures(features []driver.Feature) error {
	show := a.printFeatures
	if a.json {
		show = func(f []driver.Feature) error { return a.printJSON(f) }
	}
	if err := show(features); err != nil {
		return err
	}
	for _, f := range features {
		if f.Required && !f.OK {
			return errs.New(errs.Unsupported, "this host cannot run sandboxes: %s is missing", f.Name).WithHint("%s", f.Fix)
		}
	}
	return nil
}

// printFeatures lists features, and under each missing one what that costs.
func (a *app) printFeatures(features []driver.Feature) error {
	width := 0
	for _, f := range features {
		width = max(width, len(f.Name))
	}
	for _, f := range features {
		if _, err := fmt.Fprintf(a.stdio.Out, "%-7s  %-*s  %s\n", mark(f), width, f.Name, f.Detail); err != nil {
			return err
		}
		for _, line := range []struct{ name, text string }{{"cost", f.Cost}, {"fix", f.Fix}} {
			if f.OK || line.text == "" {
				continue
			}
			if _, err := fmt.Fprintf(a.stdio.Out, "%-7s  %-*s  %s: %s\n", "", width, "", line.name, line.text); err != nil {
				return err
			}
		}
	}
	return nil
}

func mark(f driver.Feature) string {
	switch {
	case f.OK:
		return "ok"
	case f.Required:
		return "MISSING"
	}
	return "missing"
}
