package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sandlot-dev/sandlot/internal/config"
)

// printJSON writes v, indented, to standard output.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdio.Out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table writes rows under a heading, in columns.
type table struct {
	w   *tabwriter.Writer
	err error
}

func (a *app) newTable(heading ...string) *table {
	t := &table{w: tabwriter.NewWriter(a.stdio.Out, 0, 0, 2, ' ', 0)}
	t.row(heading...)
	return t
}

func (t *table) row(cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cells[i] = "-"
		}
	}
	if _, err := fmt.Fprintln(t.w, strings.Join(cells, "\t")); err != nil {
		t.err = err
	}
}

// done prints the table.
func (t *table) done() error {
	if t.err != nil {
		return t.err
	}
	return t.w.Flush()
}

// say writes words for people to standard error.
func (a *app) say(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stdio.Err, format+"\n", args...) // nobody is left to tell
}

// pairs formats metadata in a stable order.
func pairs(m map[string]string) string {
	var all []string
	for _, k := range sortedKeys(m) {
		all = append(all, k+"="+m[k])
	}
	return strings.Join(all, ",")
}

// stamp formats a time for tables.
func stamp(t time.Time) string { return t.Local().Format(time.DateTime) }

// left formats how long it is until t.
func left(t time.Time) string {
	return config.Duration(max(0, time.Until(t)).Round(time.Second)).String()
}
