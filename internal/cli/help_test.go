package cli

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// commands lists a command and everything below it, the noise of cobra's own
// completion and help commands left out.
func commands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		if sub.Name() != "completion" && sub.Name() != "help" {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

func TestHelpGolden(t *testing.T) {
	for _, cmd := range commands((&app{}).root()) {
		path := cmd.CommandPath()
		t.Run(path, func(t *testing.T) {
			var out, errOut bytes.Buffer
			args := append(strings.Fields(path)[1:], "--help")
			if code := Main(t.Context(), args, nil, Stdio{Out: &out, Err: &errOut}, nil); code != 0 || errOut.Len() > 0 {
				t.Fatalf("exit code %d, standard error %q", code, errOut.String())
			}
			golden := filepath.Join("testdata", "help", strings.ReplaceAll(path, " ", "-")+".golden")
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("help changed (-golden +now); if it should, run the test with -update:\n%s", diff)
			}
		})
	}
}

// Every command that does something shows how, and the manual knows it.
func TestCommandsAreExplained(t *testing.T) {
	manual, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range commands((&app{}).root()) {
		if !cmd.HasSubCommands() && cmd.Example == "" && cmd.Name() != "version" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		if !strings.Contains(string(manual), cmd.CommandPath()) {
			t.Errorf("docs/cli.md does not mention %s", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.LocalNonPersistentFlags().FlagUsages()) {
			name, _, _ := strings.Cut(line[strings.Index(line, "--"):], " ")
			if name != "--help" && !strings.Contains(string(manual), name) {
				t.Errorf("docs/cli.md does not mention %s of %s", name, cmd.CommandPath())
			}
		}
	}
}
