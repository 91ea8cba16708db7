package cli

import (
	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/client"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

func (a *app) templateSetCommand() *cobra.Command {
	var cpus int
	var memory, disk string
	cmd := &cobra.Command{
		Use:   "set TEMPLATE",
		Short: "Change the limits of the sandboxes made from a template from now on",
		Example: `  sandlot template set base --memory 512M
  sandlot template set base --cpus 4 --memory 2G --disk 20G`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			limits, err := templateLimits(cpus, memory, disk)
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.SetTemplateLimits(cmd.Context(), args[0], limits)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(t)
			}
			a.say("sandboxes of %s now have %d CPUs, %s of memory and %s of disk", args[0], t.CPUs, mib(t.MemoryMB), mib(t.DiskMB))
			return nil
		},
	}
	cmd.Flags().IntVar(&cpus, "cpus", 0, "number of virtual CPUs")
	cmd.Flags().StringVar(&memory, "memory", "", "memory, e.g. 512M or 2G")
	cmd.Flags().StringVar(&disk, "disk", "", "how much may be written, e.g. 10G")
	return cmd
}

func templateLimits(cpus int, memory, disk string) (client.TemplateLimits, error) {
	l := client.TemplateLimits{CPUs: cpus}
	for _, f := range []struct {
		flag, text string
		mib        *int
	}{{"--memory", memory, &l.MemoryMB}, {"--disk", disk, &l.DiskMB}} {
		if f.text == "" {
			continue
		}
		size, err := config.ParseSize(f.text)
		if err != nil {
			return l, errs.Wrap(err, errs.Invalid, "%s %q is no size; write it like 512M or 2G", f.flag, f.text)
		}
		if *f.mib = int(size / config.MiB); *f.mib == 0 {
			return l, errs.New(errs.Invalid, "%s %s is less than 1M", f.flag, f.text)
		}
	}
	if l == (client.TemplateLimits{}) {
		return l, errs.New(errs.Invalid, "nothing to change: give --cpus, --memory or --disk")
	}
	return l, nil
}
