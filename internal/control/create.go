package control

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Limits of what a create request may carry. An environment also has to fit
// what the kernel takes of one exec, and a single variable is at most 128 KiB.
const (
	maxMetadataBytes = 64 << 10
	maxEnvBytes      = 128 << 10
	maxTemplateRef   = 512
)

// CreateRequest says what sandbox is wanted.
type CreateRequest struct {
	// Template is an ID, alias, name:tag or team/name.
	Template string
	// Timeout is how long it lives.
	Timeout       time.Duration
	Metadata, Env map[string]string
	// Network is the network configuration as the client gave it, nil if none.
	Network json.RawMessage
	// AllowInternet is what the client said, nil if nothing.
	AllowInternet *bool
	// Ports says how its ports are reached from outside.
	Ports PortOptions
	// Insecure asks for a data plane without a token. It is granted only if
	// Options.AllowInsecure says so; else the sandbox is secured all the same.
	Insecure bool
	// AutoPause and AutoResume are refused with errs.Unsupported when true.
	AutoPause, AutoPauseMemory, AutoResume bool
}

func (r CreateRequest) check() error {
	switch {
	case r.Template == "":
		return errs.New(errs.Invalid, "templateID is missing: name a template, for example %q", sandbox.BaseTemplate)
	case len(r.Template) > maxTemplateRef:
		return errs.New(errs.Invalid, "templateID is longer than %d bytes", maxTemplateRef)
	case r.AutoPause:
		return errs.New(errs.Unsupported, "autoPause is not available in this version, which cannot pause sandboxes: leave it out, and the sandbox is killed at its end of life")
	case r.AutoResume:
		return errs.New(errs.Unsupported, "autoResume is not available in this version, which cannot pause sandboxes: leave it out")
	}
	if n := mapBytes(r.Metadata); n > maxMetadataBytes {
		return errs.New(errs.Invalid, "metadata holds %d bytes of keys and values; %d are allowed", n, maxMetadataBytes)
	}
	if err := r.Ports.check(); err != nil {
		return err
	}
	return checkEnv(r.Env)
}

func checkEnv(env map[string]string) error {
	if n := mapBytes(env); n > maxEnvBytes {
		return errs.New(errs.Invalid, "envVars hold %d bytes of names and values; %d are allowed", n, maxEnvBytes)
	}
	for name, value := range env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return errs.New(errs.Invalid, "envVars: %q cannot be the name of a variable: it must not be empty nor contain '=' or NUL", name)
		}
		if strings.ContainsRune(value, 0) {
			return errs.New(errs.Invalid, "envVars: the value of %s must not contain NUL", name)
		}
	}
	return nil
}

func mapBytes(m map[string]string) (n int) {
	for k, v := range m {
		n += len(k) + len(v)
	}
	return n
}

// Create starts a sandbox and returns when it runs and its row is durable. If
// ctx ends before that, the sandbox is destroyed. Errors: errs.Invalid,
// NotFound (template), Exhausted (too many sandboxes), Unsupported, and what
// the host says.
func (c *Control) Create(ctx context.Context, req CreateRequest) (Sandbox, error) {
	leave, err := c.enter()
	if err != nil {
		return Sandbox{}, err
	}
	defer leave()
	if err := req.check(); err != nil {
		return Sandbox{}, err
	}
	if err := c.checkTimeout(req.Timeout); err != nil {
		return Sandbox{}, err
	}
	t, err := c.templates.Resolve(ctx, req.Template)
	if err != nil {
		return Sandbox{}, fmt.Errorf("resolve template: %w", err)
	}
	if err := c.reserve(); err != nil {
		return Sandbox{}, err
	}
	id, err := c.host.Launch(ctx, LaunchRequest{Template: t, Env: req.Env})
	if err != nil {
		c.release()
		return Sandbox{}, interrupted(ctx, fmt.Errorf("launch sandbox: %w", err))
	}
	return c.promise(ctx, c.describe(id, t, req))
}

// promise makes a launched sandbox one that a client may be told of: its row is
// durable, its deadline set, and it is alive. Whatever fails destroys it.
func (c *Control) promise(ctx context.Context, s Sandbox) (Sandbox, error) {
	err := ctx.Err()
	if err == nil {
		err = c.write(ctx, s)
	}
	if err != nil {
		s.State = sandbox.Stopping
		_, undo := c.finish(ctx, c.admit(s))
		c.logFailure("unwind create", s.ID, undo)
		return Sandbox{}, interrupted(ctx, err)
	}
	c.admit(s)
	if !c.host.Alive(s.ID) { // its exit may have been reported before it was known
		c.Exited(s.ID)
		return Sandbox{}, errs.New(errs.Unavailable, "the sandbox ended while it was being created: try again; if it happens again, see the server's log")
	}
	c.countUse(s.TemplateID, s.StartedAt)
	c.opt.Logger.Info("sandbox created", "sandbox_id", s.ID, "template_id", s.TemplateID, "end_at", s.EndAt)
	return s, nil
}

// interrupted gives err a kind when the reason is that nobody waits any more.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return errs.Wrap(err, errs.Timeout, "the request ended before the sandbox was ready; it was destroyed")
}

func (c *Control) describe(id sandbox.ID, t sandbox.Template, req CreateRequest) Sandbox {
	now := c.now()
	s := Sandbox{
		ID: id, TemplateID: t.ID, BuildID: t.BuildID, Aliases: t.Aliases,
		State: sandbox.Running, StartedAt: now, EndAt: now.Add(req.Timeout),
		Metadata: req.Metadata, Env: req.Env,
		AccessToken: newToken(), EnvdVersion: c.opt.EnvdVersion, Limits: t.Limits.OrDefault(),
		Network: req.Network, AllowInternet: req.AllowInternet,
		MaskHost: req.Ports.MaskHost, HTTPSPorts: req.Ports.https(),
		AutoPause: req.AutoPause, AutoPauseMemory: req.AutoPauseMemory, AutoResume: req.AutoResume,
	}
	if req.Ports.Private {
		s.TrafficToken = newToken()
	}
	if req.Insecure && c.opt.AllowInsecure {
		s.AccessToken, s.Insecure = "", true
	}
	return s
}

// newToken returns 160 random bits in hexadecimal.
func newToken() string {
	var b [20]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b[:])
}

// reserve takes a place for a sandbox, so that creates at the same time
// cannot pass the limit together. admit or release gives it back.
func (c *Control) reserve() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries)+c.pending >= c.opt.MaxSandboxes {
		return errs.New(errs.Exhausted, "%d sandboxes exist and no more are allowed: kill some, or raise max_sandboxes in the server's configuration", c.opt.MaxSandboxes)
	}
	c.pending++
	return nil
}

func (c *Control) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending--
}

// admit turns a reserved place into an entry.
func (c *Control) admit(s Sandbox) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending--
	return c.insert(s)
}

// insert adds an entry; c.mu is held. A running one gets its deadline.
func (c *Control) insert(s Sandbox) *entry {
	e := &entry{id: s.ID, sandbox: s, index: -1}
	c.entries[s.ID] = e
	if s.State == sandbox.Running {
		c.schedule(e, s.EndAt)
	}
	return e
}

// write makes a row durable; a client that went away does not stop it halfway.
func (c *Control) write(ctx context.Context, s Sandbox) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := c.store.PutSandbox(ctx, s); err != nil {
		return fmt.Errorf("write registry: %w", err)
	}
	return nil
}
