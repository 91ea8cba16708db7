package edge

import (
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

func TestSandboxOf(t *testing.T) {
	id := sandbox.NewID()
	label := "8000-" + string(id)
	for _, l := range []string{label, strings.ToUpper(label)} {
		if got, ok := SandboxOf(l); got != id || !ok {
			t.Errorf("SandboxOf(%s) = %s, %t", l, got, ok)
		}
	}
	for _, l := range []string{
		label + "-x", label + "-", "0" + label, "-" + label, label + ".", label + ".a", label + ":1", "0-" + string(id), "65536-" + string(id),
		string(id), "8000-", "", "8000", "8000-x",
	} {
		if got, ok := SandboxOf(l); ok {
			t.Errorf("SandboxOf(%q) = %s", l, got)
		}
	}
}
