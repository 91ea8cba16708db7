package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/sandlot-dev/sandlot/client"
)

func (a *app) sandboxWatchCommand() *cobra.Command {
	var recursive bool
	var user string
	cmd := &cobra.Command{
		Use:   "watch ID DIRECTORY",
		Short: "Print what changes in a directory of a sandbox",
		Long: `Print what changes in a directory of a sandbox, a line for each event, until the
directory is gone, the sandbox ends or Ctrl-C is pressed. The events are create, write, remove, rename
(the old name; the new one is a create) and chmod, and names are relative to the directory.`,
		Example: `  sandlot sandbox watch i8f3k2… /home/user
  sandlot sandbox watch i8f3k2… src --recursive --json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			sbx, err := c.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			opts := []client.WatchOption{client.AsUser(user)}
			if recursive {
				opts = append(opts, client.Recursively())
			}
			w, err := sbx.Files.Watch(cmd.Context(), args[1], opts...)
			if err != nil {
				return err
			}
			defer w.Close()
			return a.printEvents(w)
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "all directories below, too")
	cmd.Flags().StringVarP(&user, "user", "u", "", "the user whose home relative paths start at")
	return cmd
}

// printEvents prints events as they come, in JSON one object on each line.
func (a *app) printEvents(w *client.Watcher) error {
	for e, err := range w.Events() {
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s", e.Type, printable(e.Name))
		if a.json {
			text, err := json.Marshal(e)
			if err != nil {
				return err
			}
			line = string(text)
		}
		if _, err := fmt.Fprintln(a.stdio.Out, line); err != nil {
			return err
		}
	}
	return nil
}

// printable quotes a name that would do something to a terminal: whoever is in
// the sandbox chose it.
func printable(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}
