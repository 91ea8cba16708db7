package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) keyCommand() *cobra.Command {
	return noun("key", "Make, list and revoke API keys", a.keyCreateCommand(), a.keyListCommand(), a.keyRevokeCommand())
}

func (a *app) keyCreateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "create NAME",
		Short: "Make an API key and print it; it is not shown again",
		Example: `  sandlot key create laptop
  export E2B_API_KEY="$(sandlot key create ci)"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			key, err := c.CreateKey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(key)
			}
			_, err = fmt.Fprintln(a.stdio.Out, key.Text)
			return err
		},
	}
}

func (a *app) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the API keys, masked",
		Example: "  sandlot key list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			keys, err := c.Keys(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(keys)
			}
			t := a.newTable("ID", "NAME", "KEY", "CREATED", "LAST USED")
			for _, k := range keys {
				used := "never"
				if k.LastUsed != nil {
					used = stamp(*k.LastUsed)
				}
				t.row(k.ID, k.Name, k.Mask.String(), stamp(k.CreatedAt), used)
			}
			return t.done()
		},
	}
}

func (a *app) keyRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID...",
		Short:   "Make API keys useless",
		Example: "  sandlot key revoke 3f2a9c",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			for _, id := range args {
				if err := c.RevokeKey(cmd.Context(), id); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
