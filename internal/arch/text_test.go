package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sandlot-dev/sandlot/internal/testreq"
)

// The budgets. Most files and functions are far below; who reaches one has two
// things in one place.
const (
	fileLines     = 600
	functionLines = 80
	parameters    = 6 // with the context
)

func TestPackagesSayWhatTheyAre(t *testing.T) {
	for _, p := range load(t) {
		docs := 0
		for _, f := range parse(t, p.files) {
			if f.file.Doc != nil && strings.TrimSpace(f.file.Doc.Text()) != "" {
				docs++
			}
		}
		generated := within(p.path, "gen") && p.path != "gen/rest"
		if docs != 1 && len(p.files) > 0 && !generated {
			t.Errorf("%s has %d package comments, not one; it says what the package is, what it owns and who may import it", p.path, docs)
		}
	}
}

func TestBudgets(t *testing.T) {
	for _, p := range load(t) {
		for _, f := range parse(t, p.files) {
			if !ast.IsGenerated(f.file) {
				f.check(t)
			}
		}
	}
}

// source is a parsed file.
type source struct {
	path string
	set  *token.FileSet
	file *ast.File
}

func parse(t *testing.T, paths []string) []source {
	t.Helper()
	var all []source
	for _, path := range paths {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, source{path, set, f})
	}
	return all
}

func (s source) line(p token.Pos) int { return s.set.Position(p).Line }

func (s source) check(t *testing.T) {
	t.Helper()
	if n := s.line(s.file.FileEnd); n > fileLines {
		t.Errorf("%s has %d lines, at most %d", s.path, n, fileLines)
	}
	for _, d := range s.file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := s.line(fn.End()) - s.line(fn.Pos()) + 1; n > functionLines {
			t.Errorf("%s: %s has %d lines, at most %d", s.set.Position(fn.Pos()), fn.Name, n, functionLines)
		}
		if n := fn.Type.Params.NumFields(); n > parameters {
			t.Errorf("%s: %s has %d parameters, at most %d; take a struct", s.set.Position(fn.Pos()), fn.Name, n, parameters)
		}
	}
}

// unwanted is what no tracked file may contain. The patterns are written so that
// they do not match themselves.
var unwanted = []struct {
	pattern *regexp.Regexp
	// files limits the pattern to files whose name ends so.
	files []string
	why   string
}{
	{regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`), nil, "finish it, leave it out or open an issue"},
	{regexp.MustCompile(`"resolved"\s*:`), []string{".json"}, "lock files name versions and hashes, so that every mirror serves them"},
	{regexp.MustCompile(`(?i)^\s*(registry|.*_authToken)\s*=`), []string{".npmrc"}, "which registry is used is the machine's business"},
	{regexp.MustCompile(`\b(GOPROXY|GONOSUMDB|GOFLAGS)=\S`), nil, "how modules are fetched is the machine's business"},
	{regexp.MustCompile(`(?i)https?://[^/\s"']*(registry|artifactory|nexus|goproxy|mirror)[^/\s"']*\.[a-z]`), []string{".json", ".mod", ".sum", ".npmrc", ".yaml", ".yml"}, "names of registries belong to the machine's configuration"},
	{regexp.MustCompile(`/(Users|home)/[a-z]+/(src|go|projects?|code|git)\b`), nil, "it is a path of one machine"},
	{regexp.MustCompile(`(^|[\s"'=(])/(workspace|work|builds)/\w`), nil, "it is a path of one machine"},
}

func TestNothingUnwantedInTheTree(t *testing.T) {
	for _, name := range tracked(t) {
		data, err := os.ReadFile(filepath.Join(root(t), name))
		if err != nil || bytes.IndexByte(data, 0) >= 0 {
			continue // deleted but not yet committed, or no text
		}
		for n, line := range strings.Split(string(data), "\n") {
			for _, u := range unwanted {
				if hasSuffix(name, u.files) && u.pattern.MatchString(line) {
					t.Errorf("%s:%d: %q: %s", name, n+1, u.pattern.FindString(line), u.why)
				}
			}
		}
	}
}

// tracked returns the names of the files git knows, relative to the root.
func tracked(t *testing.T) []string {
	t.Helper()
	git := testreq.Command(t, "git", "git")
	// A clone may belong to another user than the one who tests it.
	out, err := exec.Command(git, "-c", "safe.directory=*", "-C", root(t), "ls-files", "-z").Output()
	if err != nil {
		testreq.Missing(t, "the git repository: this is an unpacked archive")
	}
	return strings.Split(strings.Trim(string(out), "\x00"), "\x00")
}

func hasSuffix(name string, suffixes []string) bool {
	for _, s := range suffixes {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return len(suffixes) == 0
}
