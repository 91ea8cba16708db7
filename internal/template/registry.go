// Package template is the registry of templates on disk and the builder of the
// one every installation has. It owns templates/ of a data directory, one JSON
// file per template, and the builds in tmp/; the images are package image's.
//
// Package template is an engine (L2): control and node use it.
package template

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/debian"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/image"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// suffix ends the names of templates' files.
const suffix = ".json"

// Options say where a registry lives and how it builds.
type Options struct {
	// DataDir is the server's data directory.
	DataDir string
	Images  *image.Store
	Log     *slog.Logger
	// Mirror is the Debian mirror to build from, one address or two with that of
	// the security archive; empty means the host's own, or Debian's default.
	Mirror string
	// Cache, if set, is a directory where built base images are looked up and
	// kept, by recipe: other data directories then copy instead of building.
	Cache string
	// Defaults fill the limits a template does not name. Their own zero fields
	// are filled from sandbox.DefaultLimits.
	Defaults sandbox.Limits
}

// Registry is the templates of one data directory. It is safe for concurrent
// use, also by several processes.
type Registry struct {
	opts Options
	dir  string
	tmp  string

	change sync.Mutex // held while a template is read, changed and written

	mu    sync.Mutex
	known []sandbox.Template
	read  time.Time // of the directory, when known was read
}

// Open opens the registry, making its directories if they are missing and
// removing what interrupted builds left.
func Open(opts Options) (*Registry, error) {
	data, err := filepath.Abs(opts.DataDir) // builds have another working directory
	if err != nil {
		return nil, fmt.Errorf("find data directory: %w", err)
	}
	r := &Registry{opts: opts, dir: filepath.Join(data, "templates"), tmp: filepath.Join(data, "tmp")}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make template directory: %w", err)
	}
	if err := r.sweep(); err != nil {
		return nil, err
	}
	return r, debian.Sweep(r.tmp)
}

// sweep removes half-written files. Writing one takes milliseconds, so an old
// one has no writer any more.
func (r *Registry) sweep() error {
	left, err := filepath.Glob(filepath.Join(r.dir, atomicfile.Prefix+"*"))
	if err != nil {
		return fmt.Errorf("clean template directory: %w", err)
	}
	for _, path := range left {
		fi, err := os.Stat(path)
		if err != nil || time.Since(fi.ModTime()) < time.Minute {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean template directory: %w", err)
		}
	}
	return nil
}

// List returns all templates, the oldest first.
func (r *Registry) List(ctx context.Context) ([]sandbox.Template, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	all := slices.Clone(r.known)
	for i := range all {
		all[i].Limits = all[i].Limits.Or(r.opts.Defaults).OrDefault()
	}
	return all, nil
}

// load reads the directory if it changed since the last time.
func (r *Registry) load(ctx context.Context) error {
	fi, err := os.Stat(r.dir)
	if err != nil {
		return fmt.Errorf("read templates: %w", err)
	}
	// A change within one tick of the file system's clock leaves the same time
	// behind, so a young time proves nothing.
	if fi.ModTime().Equal(r.read) && time.Since(r.read) > time.Second {
		return nil
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return fmt.Errorf("read templates: %w", err)
	}
	var known []sandbox.Template
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		t, err := readTemplate(filepath.Join(r.dir, e.Name()))
		if err != nil {
			r.opts.Log.WarnContext(ctx, "template left out", "file", e.Name(), "error", err)
			continue
		}
		known = append(known, t)
	}
	slices.SortFunc(known, func(a, b sandbox.Template) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	r.known, r.read = known, fi.ModTime()
	return nil
}

func readTemplate(path string) (sandbox.Template, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return sandbox.Template{}, err
	}
	var t sandbox.Template
	if err := json.Unmarshal(b, &t); err != nil {
		return sandbox.Template{}, fmt.Errorf("parse template: %w", err)
	}
	if t.ID+suffix != filepath.Base(path) || t.Image == "" {
		return sandbox.Template{}, errors.New("parse template: it has another id than its file, or no image")
	}
	return t, nil
}

// Resolve returns the template that ref names: an id or an alias, optionally
// after a team ("team/base") and before a tag ("base:latest"). There is one
// team, so its name does not matter, and one build per template, so the tags
// are "latest" and "default". It fails with errs.NotFound, naming what there is.
func (r *Registry) Resolve(ctx context.Context, ref string) (sandbox.Template, error) {
	all, err := r.List(ctx)
	if err != nil {
		return sandbox.Template{}, err
	}
	name, tag, tagged := strings.Cut(ref, ":")
	if tagged && tag != "latest" && tag != "default" {
		return sandbox.Template{}, errs.New(errs.NotFound, "template %q has no tag %q; there are latest and default", name, tag)
	}
	if team, rest, ok := strings.Cut(name, "/"); ok && team != "" {
		name = rest
	}
	for _, t := range all {
		if t.ID == name || slices.Contains(t.Aliases, name) {
			return t, nil
		}
	}
	return sandbox.Template{}, errs.New(errs.NotFound, "template %q does not exist; there %s", ref, names(all))
}

func names(all []sandbox.Template) string {
	if len(all) == 0 {
		return "are no templates yet: run `sandlot setup`"
	}
	var list []string
	for _, t := range all {
		list = append(list, cmp.Or(strings.Join(t.Aliases, " = "), t.ID))
	}
	return "is " + strings.Join(list, ", ")
}

var idPattern = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

// Put writes a template, whole or not at all, replacing the one with its id.
func (r *Registry) Put(_ context.Context, t sandbox.Template) error {
	if !idPattern.MatchString(t.ID) || t.Image == "" {
		return errs.New(errs.Invalid, "a template needs an id of lower-case letters and digits, and an image")
	}
	if err := t.Limits.OrDefault().Validate(); err != nil {
		return err
	}
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("write template: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read = time.Time{}
	if err := atomicfile.Write(filepath.Join(r.dir, t.ID+suffix), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write template %s: %w", t.ID, err)
	}
	return nil
}

// SetLimits changes the limits of the sandboxes made from a template from now
// on. Zero fields stay as they are: those the template does not name go on
// following the defaults. It returns the template as Resolve would.
func (r *Registry) SetLimits(ctx context.Context, ref string, limits sandbox.Limits) (sandbox.Template, error) {
	r.change.Lock()
	defer r.change.Unlock()
	found, err := r.Resolve(ctx, ref)
	if err != nil {
		return sandbox.Template{}, err
	}
	t, err := readTemplate(filepath.Join(r.dir, found.ID+suffix))
	if err != nil {
		return sandbox.Template{}, err
	}
	t.Limits = limits.Or(t.Limits)
	if err := r.Put(ctx, t); err != nil {
		return sandbox.Template{}, err
	}
	return r.Resolve(ctx, t.ID)
}
