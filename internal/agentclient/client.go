// Package agentclient is the host's side of the agent in a sandbox: it sets the
// agent up, asks whether it lives, connects to ports inside the sandbox, and
// forwards clients' requests. Whatever comes back was
// written by the sandbox and is treated as hostile: headers and bodies are
// bounded, and nothing here waits longer than its caller's context. The node,
// the edge and the drivers' tests import it.
package agentclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// callTimeout bounds Init and Ping where the caller's context does not.
	callTimeout = 10 * time.Second
	// maxHeaderBytes bounds the header of a reply.
	maxHeaderBytes = 64 << 10
	// maxErrorBytes bounds what is read of an error's body.
	maxErrorBytes = 4 << 10
	// idleConns are kept open per sandbox for idleTime: a connection costs
	// memory on both sides, and opening one some 50 µs.
	idleConns = 8
	idleTime  = 10 * time.Second
)

// base is the URL of every request; the connection decides where it goes.
const base = "http://sandbox"

// Dial connects to the agent's socket.
type Dial func(ctx context.Context) (net.Conn, error)

// Client talks to one agent. It is safe for concurrent use.
type Client struct {
	dial      Dial
	transport *http.Transport
}

// New returns a Client that connects with dial. It opens no connection before it
// is used; Close closes those kept open.
func New(dial Dial) *Client {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &Client{dial: dial, transport: &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		Protocols:              &protocols,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConnsPerHost:    idleConns,
		IdleConnTimeout:        idleTime,
	}}
}

// Close closes the connections no request uses. The Client can be used again: a
// sandbox must have none open when it is dumped.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Init is what the host decides about a sandbox after it has started.
type Init struct {
	// Env is set for every process started from now on.
	Env map[string]string `json:"env,omitempty"`
	// DefaultUser is whom requests act as that name nobody; empty for the
	// template's user "user", or root without one.
	DefaultUser string `json:"default_user,omitempty"`
	// DefaultWorkdir is where processes start; empty for the home directory.
	DefaultWorkdir string `json:"default_workdir,omitempty"`
	// Hostname, if set, is what the sandbox calls itself.
	Hostname string `json:"hostname,omitempty"`
	// MaxProcesses is how many processes the API may run at once; zero for any
	// number.
	MaxProcesses int `json:"max_processes,omitempty"`
}

// Init sets the sandbox up. It may be called again and replaces what was set. A
// user the sandbox does not have gives an error of kind Invalid.
func (c *Client) Init(ctx context.Context, init Init) error {
	body, err := json.Marshal(init)
	if err != nil {
		return fmt.Errorf("encode init: %w", err)
	}
	return c.call(ctx, http.MethodPost, "/sandlot/init", body)
}

// Ping returns nil when the agent answers. Otherwise the error has kind
// Unavailable.
func (c *Client) Ping(ctx context.Context) error {
	err := c.call(ctx, http.MethodGet, "/health", nil)
	if err != nil && !errs.Is(err, errs.Unavailable) {
		err = errs.Wrap(err, errs.Unavailable, "the sandbox's agent is not well")
	}
	return err
}

// call sends a request whose answer is 204.
func (c *Client) call(ctx context.Context, method, path string, body []byte) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errors.New("the agent did not answer in time"))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return errs.Wrap(errors.Join(err, context.Cause(ctx)), errs.Unavailable, "the sandbox does not answer")
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return nil
	}
	return refusal(method+" "+path, res.StatusCode, res.Body)
}

// refusal turns an error reply into an error of the status' kind.
func refusal(what string, status int, body io.Reader) error {
	kind := errs.FromHTTPStatus(status)
	if status == http.StatusBadGateway {
		kind = errs.Unavailable
	}
	return errs.New(kind, "%s: the sandbox answered %d: %s", what, status, message(body))
}

// message returns the text of an error body, made fit to print.
func message(body io.Reader) string {
	raw, err := io.ReadAll(io.LimitReader(body, maxErrorBytes))
	if err != nil {
		return "(unreadable)"
	}
	var e struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(raw, &e) != nil || e.Message == "" {
		return "(no message)"
	}
	return clean(e.Message)
}

// clean keeps a sandbox's text from steering a terminal or a log.
func clean(s string) string {
	out := []rune(s)
	for i, r := range out {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			out[i] = ' '
		}
	}
	return string(out[:min(len(out), 500)])
}
