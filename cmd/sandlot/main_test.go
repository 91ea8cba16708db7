package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sandlot-dev/sandlot/internal/clienttest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sandlot": main})
}

// TestScripts runs the real program as people do. Scripts begin with no server
// and an empty data directory; the command fakeserver starts one that isolates
// nothing.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "../../test/script",
		RequireExplicitExec: false,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SANDLOT_DATA_DIR", env.Getenv("WORK")+"/data")
			return os.Mkdir(env.Getenv("SANDLOT_DATA_DIR"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"fakeserver": fakeServer},
	})
}

// fakeServer writes what a server leaves in its data directory.
func fakeServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: fakeserver")
	}
	server, stop := clienttest.Start()
	ts.Defer(stop)
	dir := ts.Getenv("SANDLOT_DATA_DIR")
	ts.Check(os.WriteFile(dir+"/server.json", []byte(`{"url":"`+server.URL+`","pid":1,"version":"fake"}`), 0o600))
	ts.Check(os.WriteFile(dir+"/api-key", []byte(clienttest.Key+"\n"), 0o600))
	ts.Setenv("SERVER", server.URL)
	ts.Setenv("KEY", clienttest.Key)
}

// Each signal that asks for it ends the program in order, with its own exit code
// and not by the signal.
func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			asked := make(chan struct{}, 1)
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				asked <- struct{}{}
				<-r.Context().Done()
			}))
			defer server.Close()
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "sandbox", "list", "--api-url", server.URL)
			cmd.Args[0] = "sandlot"
			cmd.Env = append(os.Environ(), "E2B_API_KEY="+clienttest.Key)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-asked
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
				t.Errorf("it ended with: %v", cmd.ProcessState)
			}
		})
	}
}

// Below nohup a closed terminal is nothing to end for.
func TestHangupStaysIgnored(t *testing.T) {
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	if slices.Contains(signals(), os.Signal(syscall.SIGHUP)) {
		t.Error("SIGHUP ends the program although it was to be ignored")
	}
}
