package main

import (
	"os"
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
