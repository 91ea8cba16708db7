package bench

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteTable prints the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s on %d CPUs, %d MiB, Linux %s; load %.2f before, %.2f after\n\n",
		r.Server, r.Host.CPUs, r.Host.MemoryMiB, r.Host.Kernel, r.Host.LoadBefore, r.Host.LoadAfter)
	r.figures(&out)
	out.WriteByte('\n')
	for _, row := range r.Rows {
		fmt.Fprintf(&out, "%s: %s%s%s\n", row.Name, row.Title, row.besides(), remark(row.Note))
	}
	fmt.Fprintf(&out, "\nfloor, where no other is named: %s; every floor is sampled in turn with its row\n", usualFloor)
	if busy := max(r.Host.LoadBefore, r.Host.LoadAfter); busy > float64(r.Host.CPUs) {
		fmt.Fprintf(&out, "other work wanted the processors too (load %.2f on %d): the figures are worse than the server is\n", busy, r.Host.CPUs)
	}
	_, err := out.WriteTo(w)
	return err
}

// figures writes the aligned part.
func (r *Report) figures(out *bytes.Buffer) {
	var cells strings.Builder
	cells.WriteString("ROW\tN\tMIN\tP50\tP95\tP99\tVALUE\tTARGET\tFLOOR P50\tVERDICT\t\n")
	for _, row := range r.Rows {
		cells.WriteString(row.cells() + "\n")
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = io.WriteString(t, cells.String()) // a buffer never refuses
	_ = t.Flush()
}

// cells formats a row of the table, each cell ended by a tab.
func (row Row) cells() string {
	if row.Verdict == Skipped || row.Verdict == Failed {
		return fmt.Sprintf("%s\t\t\t\t\t\t\t\t\t%s\t", row.Name, row.Verdict)
	}
	target, floor := "-", "-"
	if row.Target > 0 {
		sign := "≤"
		if perSecond(row.ValueUnit) {
			sign = "≥"
		}
		target = sign + " " + figure(row.Target, row.ValueUnit)
	}
	if row.Floor != nil {
		floor = figure(row.Floor.P50, row.Unit)
	}
	return fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t",
		row.Name, row.N, number(row.Min), number(row.P50), number(row.P95), number(row.P99),
		figure(row.Value, row.ValueUnit), target, floor, row.Verdict)
}

func figure(v float64, unit string) string {
	if unit == "/s" {
		return number(v) + unit
	}
	return number(v) + " " + unit
}

// number writes large figures without a fraction that means nothing.
func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// besides names a floor that is not the usual one.
func (row Row) besides() string {
	if row.FloorTitle == "" || row.FloorTitle == usualFloor {
		return ""
	}
	return "; floor: " + row.FloorTitle
}

func remark(note string) string {
	if note == "" {
		return ""
	}
	return " (" + note + ")"
}
