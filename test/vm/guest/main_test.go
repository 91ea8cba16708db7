package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	const output = `=== RUN   TestA
--- PASS: TestA (0.00s)
=== RUN   TestB
=== RUN   TestB/one
    some_test.go:10: said --- FAIL: nothing
--- FAIL: TestB (0.10s)
    --- FAIL: TestB/one (0.05s)
    --- SKIP: TestB/two (0.00s)
FAIL`
	var out strings.Builder
	got := count(strings.NewReader(output), &out)
	if got.passed != 1 || got.failed != 2 || got.skipped != 1 || len(got.names) != 2 {
		t.Errorf("count = %+v", got)
	}
	if out.String() != output {
		t.Errorf("the output was not copied: %q", out.String())
	}
}

func TestVerdict(t *testing.T) {
	for name, test := range map[string]struct{ suites, want string }{
		"passes":            {`[{"name":"s","argv":["sh","-c","echo '--- PASS: T (0s)'"],"seconds":10}]`, "sandlot-vm: 1 passed, 0 failed\n"},
		"fails":             {`[{"name":"s","argv":["sh","-c","echo '--- FAIL: T (0s)'; exit 1"],"seconds":10}]`, "sandlot-vm: 0 passed, 1 failed\n"},
		"dies after a pass": {`[{"name":"s","argv":["sh","-c","echo '--- PASS: T (0s)'; exit 2"],"seconds":10}]`, "sandlot-vm: 1 passed, 1 failed\n"},
		"runs nothing":      {`[{"name":"s","argv":["true"],"seconds":10}]`, "sandlot-vm: 0 passed, 1 failed\n"},
		"hangs":             {`[{"name":"s","argv":["sleep","60"],"seconds":1}]`, "sandlot-vm: 0 passed, 1 failed\n"},
		"is not there":      {`[{"name":"s","argv":["/no/such/file"],"seconds":1}]`, "sandlot-vm: 0 passed, 1 failed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "suites.json")
			if err := os.WriteFile(file, []byte(test.suites), 0o600); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			if code := Main([]string{file}, &out); code != 0 || !strings.HasSuffix(out.String(), test.want) {
				t.Errorf("exit %d, output:\n%s", code, out.String())
			}
		})
	}
	if code := Main(nil, &strings.Builder{}); code == 0 {
		t.Error("no argument was accepted")
	}
}
