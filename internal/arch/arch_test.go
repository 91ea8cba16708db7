package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/sandlot-dev/sandlot"

// pkg is one of the module's packages; paths inside the module are relative to it.
type pkg struct {
	path    string
	dir     string
	files   []string
	imports []string
}

// packages asks the go command once what the module consists of.
var packages = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	all, err := decode(json.NewDecoder(out))
	return all, errors.Join(err, cmd.Wait())
})

func decode(d *json.Decoder) ([]pkg, error) {
	var all []pkg
	for {
		var l struct {
			ImportPath, Dir  string
			GoFiles, Imports []string
		}
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		p := pkg{path: inside(l.ImportPath), dir: l.Dir}
		for _, f := range l.GoFiles {
			p.files = append(p.files, filepath.Join(l.Dir, f))
		}
		for _, i := range l.Imports {
			p.imports = append(p.imports, inside(i))
		}
		all = append(all, p)
	}
}

// inside cuts the module off the paths of its own packages.
func inside(path string) string { return strings.TrimPrefix(path, module+"/") }

// own reports whether a path is one of the module's packages.
func own(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	switch first {
	case "client", "cmd", "gen", "internal", "test":
		return true
	}
	return false
}

// external reports whether a path belongs to another module, so to neither ours
// nor the standard library.
func external(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return strings.Contains(first, ".")
}

// within reports whether path is dir or below it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

func withinAny(path string, dirs []string) bool {
	for _, d := range dirs {
		if within(path, d) {
			return true
		}
	}
	return false
}

func load(t *testing.T) []pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return all
}

// root returns the module's directory.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
