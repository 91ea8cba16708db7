package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteTable prints the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s on %d CPUs, %d MiB, Linux %s; load %.2f before, %.2f after\n\n",
		r.Server, r.Host.CPUs, r.Host.MemoryMiB, r.Host.Kernel, r.Host.LoadBefore, r.Host.LoadAfter)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "ROW\tN\tMIN\tP50\tP95\tP99\tVALUE\tTARGET\tFLOOR P50\tVERDICT\t\n")
	for _, row := range r.Rows {
		fmt.Fprintln(t, row.cells())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, row := range r.Rows {
		fmt.Fprintf(w, "%s: %s%s\n", row.Name, row.Title, remark(row.Note))
	}
	_, err := fmt.Fprint(w, "\nfloor: a local fork, exec and wait of /bin/true, sampled in turn with the row\n")
	return err
}

// cells formats a row of the table, each cell ended by a tab.
func (row Row) cells() string {
	if row.Verdict == Skipped || row.Verdict == Failed {
		return fmt.Sprintf("%s\t\t\t\t\t\t\t\t\t%s\t", row.Name, row.Verdict)
	}
	target, floor := "-", "-"
	if row.Target > 0 {
		sign := "≤"
		if row.ValueUnit == "/s" {
			sign = "≥"
		}
		target = sign + " " + figure(row.Target, row.ValueUnit)
	}
	if row.Floor != nil {
		floor = figure(row.Floor.P50, "ms")
	}
	return fmt.Sprintf("%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t",
		row.Name, row.N, row.Min, row.P50, row.P95, row.P99, figure(row.Value, row.ValueUnit), target, floor, row.Verdict)
}

func figure(v float64, unit string) string {
	if unit == "/s" {
		return fmt.Sprintf("%.1f/s", v)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}

func remark(note string) string {
	if note == "" {
		return ""
	}
	return " (" + note + ")"
}
