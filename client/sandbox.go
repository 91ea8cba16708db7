package client

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"connectrpc.com/connect"
)

// agentPort is where the data plane listens inside every sandbox.
const agentPort = "49983"

// Sandbox is one sandbox. It is safe for concurrent use, and dropping it leaves
// the sandbox as it is: call Kill when it is no longer needed.
type Sandbox struct {
	// ID names the sandbox; TemplateID what it was made from.
	ID, TemplateID string
	// Commands runs processes inside.
	Commands *Commands
	// Files reads and writes files inside.
	Files *Files

	client *Client
	token  string
	domain string
	pool   string
}

func (c *Client) newSandbox(wire sandboxReply) *Sandbox {
	s := &Sandbox{ID: wire.ID, TemplateID: wire.TemplateID, client: c, token: wire.AccessToken, domain: wire.Domain}
	s.Commands, s.Files = &Commands{s}, &Files{s}
	return s
}

// FromPool reports whether the sandbox had been started before it was asked
// for; known is false if the server did not say.
func (s *Sandbox) FromPool() (hit, known bool) { return s.pool == "hit", s.pool != "" }

// Info describes the sandbox as it is now.
func (s *Sandbox) Info(ctx context.Context) (SandboxInfo, error) { return s.client.Info(ctx, s.ID) }

// Metrics is Client.Metrics of this sandbox.
func (s *Sandbox) Metrics(ctx context.Context, from, until time.Time) ([]Metric, error) {
	return s.client.Metrics(ctx, s.ID, from, until)
}

// SetTimeout sets the time to live, counted from now and rounded up to whole
// seconds. It may be shorter than what was left.
func (s *Sandbox) SetTimeout(ctx context.Context, d time.Duration) error {
	_, err := s.client.call(ctx, apiCall{
		method: http.MethodPost, path: "/sandboxes/" + url.PathEscape(s.ID) + "/timeout",
		in: map[string]int64{"timeout": seconds(d)},
	})
	return err
}

// Kill ends the sandbox at once. If it has ended, the error is ErrNotFound.
func (s *Sandbox) Kill(ctx context.Context) error { return s.client.Kill(ctx, s.ID) }

// IsRunning asks the sandbox itself. A sandbox that ended or is paused gives
// false and no error.
func (s *Sandbox) IsRunning(ctx context.Context) (bool, error) {
	resp, err := s.do(ctx, http.MethodGet, "/health", nil, nil)
	if err == nil {
		return true, resp.Body.Close()
	}
	// A server that does not answer at all says nothing about the sandbox.
	if _, unreachable := errors.AsType[*UnreachableError](err); unreachable {
		return false, err
	}
	if refused, ok := errors.AsType[*Error](err); ok && (refused.Code == http.StatusBadGateway || refused.Code == http.StatusNotFound) {
		return false, nil
	}
	return false, err
}

// URL returns the address under which the world reaches a port inside, such as
// https://8000-<id>.example.org. Without a domain the name is below localhost,
// which not every resolver knows; Transport works everywhere. It is empty if the
// server names no domain, as E2B's may.
func (s *Sandbox) URL(port int) string {
	if s.domain == "" {
		return ""
	}
	api, err := url.Parse(s.client.opts.APIURL)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s://%d-%s.%s", api.Scheme, port, s.ID, s.domain)
}

// Transport returns what sends HTTP requests to a port inside, whatever host
// their URL names. It works without a domain and for servers that listen on
// the sandbox's loopback only. Requests to the agent's own port, 49983, get the
// sandbox's access token.
func (s *Sandbox) Transport(port int) http.RoundTripper {
	return portTransport{sandbox: s, port: fmt.Sprint(port)}
}

type portTransport struct {
	sandbox *Sandbox
	port    string
}

// RoundTrip sends a copy of req to the sandbox's port.
func (t portTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	base, err := url.Parse(t.sandbox.client.opts.SandboxURL)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host = base.Scheme, base.Host
	out.Host = ""
	if t.port == agentPort {
		t.sandbox.address(out.Header, "")
	}
	out.Header.Set("E2b-Sandbox-Id", t.sandbox.ID)
	out.Header.Set("E2b-Sandbox-Port", t.port)
	return t.sandbox.client.opts.HTTPClient.Transport.RoundTrip(out)
}

// address adds what routes a request to the sandbox's agent and lets it in.
func (s *Sandbox) address(h http.Header, user string) {
	h.Set("E2b-Sandbox-Id", s.ID)
	h.Set("E2b-Sandbox-Port", agentPort)
	h.Set("User-Agent", userAgent)
	if s.token != "" {
		h.Set("X-Access-Token", s.token)
	}
	if user != "" {
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":")))
	}
}

// rpc makes the request of a data plane call.
func rpc[T any](s *Sandbox, user string, msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	s.address(req.Header(), user)
	return req
}

// fail classifies an error of a data plane call.
func (s *Sandbox) fail(ctx context.Context, err error) error {
	return rpcError(ctx, s.client.opts.SandboxURL, err)
}
