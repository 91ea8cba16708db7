package template

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/debian"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/image"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// EnsureBase returns the base template, building it first if it or its image is
// missing. It never rebuilds one that is there. A build takes under a minute
// and needs root and the network; report, which may be nil, is called about
// four times a second from one goroutine, and not any more when EnsureBase has
// returned.
//
// When ctx ends, the build is stopped, everything it started is waited for,
// and nothing of it stays. Concurrent calls on one data directory, from
// several processes too, wait for each other.
func (r *Registry) EnsureBase(ctx context.Context, report func(Progress)) (sandbox.Template, error) {
	if t, ok := r.base(ctx); ok && r.opts.Images.Has(t.Image) {
		return t, nil
	}
	m := startMeter(report)
	defer m.stop()
	unlock, err := r.lockBuild(ctx, m)
	if err != nil {
		return sandbox.Template{}, err
	}
	defer unlock()
	t, ok := r.base(ctx)
	if ok && r.opts.Images.Has(t.Image) {
		m.done("built meanwhile")
		return t, nil
	}
	if !ok {
		t = newBase()
	}
	return r.makeBase(ctx, t, m)
}

// base returns the base template if it is registered.
func (r *Registry) base(ctx context.Context) (sandbox.Template, bool) {
	t, err := r.Resolve(ctx, sandbox.BaseTemplate)
	return t, err == nil
}

// newBase is the base template but for its image.
func newBase() sandbox.Template {
	return sandbox.Template{
		ID: sandbox.NewTemplateID(), Aliases: []string{sandbox.BaseTemplate},
		Env:  map[string]string{"LANG": "C.UTF-8"},
		User: "user", Workdir: "/home/user", Public: true,
	}
}

// makeBase gets the image of t, from the cache or by a build, and registers t.
func (r *Registry) makeBase(ctx context.Context, t sandbox.Template, m *meter) (sandbox.Template, error) {
	info, err := r.cached(ctx, m)
	if err != nil {
		return sandbox.Template{}, err
	}
	if info.Digest == "" {
		if info, err = r.build(ctx, m); err != nil {
			return sandbox.Template{}, err
		}
		r.keep(ctx, info)
	}
	t.BuildID, t.Image, t.SizeBytes = newBuildID(), info.Digest, info.SizeBytes
	t.CreatedAt = time.Now().UTC().Truncate(time.Second)
	if err := r.Put(ctx, t); err != nil {
		return sandbox.Template{}, err
	}
	m.done(fmt.Sprintf("%d MB", info.SizeBytes/1_000_000))
	return t, nil
}

// build runs mmdebstrap straight into the image store.
func (r *Registry) build(ctx context.Context, m *meter) (info image.Info, err error) {
	b, err := r.bootstrap(ctx)
	if err != nil {
		return image.Info{}, err
	}
	work, err := debian.NewWorkDir(r.tmp)
	if err != nil {
		return image.Info{}, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	b.Dir, b.Step, b.Hook = work.Path, m.step, filepath.Join(work.Path, "customize")
	if err := os.WriteFile(b.Hook, []byte(customize), 0o700); err != nil { //nolint:gosec // it is a program
		return image.Info{}, fmt.Errorf("write build hook: %w", err)
	}
	return r.pipe(ctx, b, m)
}

// pipe joins the builder and the image writer. Whichever fails first ends the
// other, and its error is the one that counts.
func (r *Registry) pipe(ctx context.Context, b debian.Bootstrap, m *meter) (image.Info, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	from, to := io.Pipe()
	built := make(chan error, 1)
	go func() {
		err := b.Run(ctx, io.MultiWriter(to, m))
		_ = to.CloseWithError(err) // always nil
		built <- err
	}()
	info, err := r.opts.Images.WriteTar(ctx, from)
	if err != nil {
		cancel(err)
		_ = from.CloseWithError(err) // always nil
	}
	if berr := <-built; err == nil || errors.Is(err, berr) {
		err = berr // where the archive broke off because the build failed, say so
	}
	return info, err
}

// bootstrap is the build with this host's mirror and ways of fetching.
func (r *Registry) bootstrap(ctx context.Context) (debian.Bootstrap, error) {
	mirror := debian.ReadHost("/").Mirror()
	if r.opts.Mirror != "" {
		var err error
		if mirror, err = debian.ParseMirror(r.opts.Mirror); err != nil {
			return debian.Bootstrap{}, err
		}
	}
	b := bootstrap(mirror)
	b.AptOptions = debian.AptOptions(ctx)
	if registry := npmRegistry(os.LookupEnv, os.ReadFile); registry != "" {
		b.Env = append(b.Env, "COREPACK_NPM_REGISTRY="+registry)
	}
	return b, nil
}

// lockBuild takes the lock of builds in this data directory.
func (r *Registry) lockBuild(ctx context.Context, m *meter) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(r.dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock builds: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock builds: %w", err), f.Close())
		}
		m.enter("waiting for another build")
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// cacheEntry is the note beside a cached image.
type cacheEntry struct {
	Image string `json:"image"`
}

func (r *Registry) cacheNote() string { return filepath.Join(r.opts.Cache, RecipeHash()+suffix) }

// cached takes the image from the cache. An Info without a digest means that it
// is not there; a cache that is damaged counts as empty.
func (r *Registry) cached(ctx context.Context, m *meter) (image.Info, error) {
	if r.opts.Cache == "" {
		return image.Info{}, nil
	}
	b, err := os.ReadFile(r.cacheNote())
	if errors.Is(err, os.ErrNotExist) {
		return image.Info{}, nil
	}
	var note cacheEntry
	if err == nil {
		err = json.Unmarshal(b, &note)
	}
	var info image.Info
	if err == nil {
		m.enter("copying the image from the cache")
		info, err = r.opts.Images.Import(ctx, r.opts.Cache, note.Image)
	}
	if ctx.Err() != nil || errs.Is(err, errs.NoSpace) {
		return image.Info{}, errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		r.opts.Log.WarnContext(ctx, "image cache not usable", "dir", r.opts.Cache, "error", err)
		return image.Info{}, nil
	}
	return info, nil
}

// keep puts a built image into the cache. That it cannot is no failure: the
// image is where it belongs.
func (r *Registry) keep(ctx context.Context, info image.Info) {
	if r.opts.Cache == "" {
		return
	}
	err := os.MkdirAll(r.opts.Cache, 0o700)
	if err == nil {
		err = r.opts.Images.Export(ctx, info.Digest, r.opts.Cache)
	}
	if err == nil {
		var b []byte
		if b, err = json.Marshal(cacheEntry{Image: info.Digest}); err == nil {
			err = atomicfile.Write(r.cacheNote(), b, 0o600)
		}
	}
	if err != nil {
		r.opts.Log.WarnContext(ctx, "image not kept in the cache", "dir", r.opts.Cache, "error", err)
	}
}

// newBuildID returns a random UUID (RFC 9562, version 4), the form E2B's
// clients expect.
func newBuildID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
