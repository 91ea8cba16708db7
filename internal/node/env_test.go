package node

import (
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/sandlot-dev/sandlot/gen/envd/process"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
)

// The template's variables, the sandbox's and the call's reach a process in a
// real sandbox, later ones winning, also over the four that every process gets.
func TestEnvironment(t *testing.T) {
	p := openReal(t, "github.com/sandlot-dev/sandlot/internal/node/testdata/printenv")
	req := request()
	req.Template.Env = map[string]string{"T": "template", "TS": "template", "TSC": "template", "PATH": "/template:/bin", "HOME": "/template"}
	req.Env = map[string]string{"TS": "sandbox", "TSC": "sandbox", "S": "sandbox", "SC": "sandbox", "HOME": "/sandbox"}
	id, err := p.node.Launch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return p.node.DialAgent(ctx, id)
	}}}
	defer client.CloseIdleConnections()
	got := environment(t, processconnect.NewProcessClient(client, "http://agent"), &process.ProcessConfig{
		Cmd: "printenv", Envs: map[string]string{"TSC": "call", "SC": "call", "C": "call", "USER": "call"},
	})
	want := map[string]string{
		"T": "template", "TS": "sandbox", "TSC": "call", "S": "sandbox", "SC": "call", "C": "call",
		"PATH": "/template:/bin", "HOME": "/sandbox", "USER": "call", "LOGNAME": "user",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the environment (-want +got):\n%s", d)
	}
}

// environment runs a program that prints its environment.
func environment(t *testing.T, c processconnect.ProcessClient, config *process.ProcessConfig) map[string]string {
	t.Helper()
	stream, err := c.Start(t.Context(), connect.NewRequest(&process.StartRequest{Process: config}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var out strings.Builder
	for stream.Receive() {
		out.Write(stream.Msg().GetEvent().GetData().GetStdout())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{}
	for line := range strings.Lines(out.String()) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if _, twice := vars[name]; twice {
			t.Errorf("%s is there twice in %q", name, slices.Sorted(maps.Keys(vars)))
		}
		vars[name] = value
	}
	return vars
}
