package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"

	"connectrpc.com/connect"

	"github.com/sandlot-dev/sandlot/gen/envd/filesystem/filesystemconnect"
	"github.com/sandlot-dev/sandlot/gen/envd/process/processconnect"
)

// userAgent tells the server's log who asks.
const userAgent = "sandlot-go-sdk/1"

// Client speaks to one server. It is safe for concurrent use.
type Client struct {
	opts      Options
	processes processconnect.ProcessClient
	files     filesystemconnect.FilesystemClient
}

// New returns a client. It reads the environment and the data directory (see
// Options) and connects to nothing. It returns an error if an address is not a
// URL or the data directory's server.json cannot be understood.
func New(opts Options) (*Client, error) {
	if err := opts.fill(); err != nil {
		return nil, err
	}
	hc := rpcHTTP{opts.HTTPClient}
	plain := connect.WithAcceptCompression("gzip", nil, nil)
	return &Client{
		opts:      opts,
		processes: processconnect.NewProcessClient(hc, opts.SandboxURL, plain),
		files:     filesystemconnect.NewFilesystemClient(hc, opts.SandboxURL, plain),
	}, nil
}

// APIURL returns the address of the control plane, without a slash at its end.
func (c *Client) APIURL() string { return c.opts.APIURL }

// SandboxURL returns the address of the data plane, without a slash at its end.
func (c *Client) SandboxURL() string { return c.opts.SandboxURL }

// APIKey returns the key in use; it is empty if none was found.
func (c *Client) APIKey() string { return c.opts.APIKey }

// Health returns nil if the server answers. It needs no key.
func (c *Client) Health(ctx context.Context) error {
	_, err := c.call(ctx, apiCall{method: http.MethodGet, path: "/health"})
	return err
}

// Close closes the idle connections. Streams go on; the client may be used again.
func (c *Client) Close() { c.opts.HTTPClient.CloseIdleConnections() }

// apiCall is one request to the control plane.
type apiCall struct {
	method, path string
	query        url.Values
	header       http.Header
	// in is sent as JSON unless nil; the reply is decoded into out unless nil.
	in, out any
}

// call does one request to the control plane and returns the reply's header.
func (c *Client) call(ctx context.Context, a apiCall) (http.Header, error) {
	req, err := c.request(ctx, a)
	if err != nil {
		return nil, err
	}
	resp, err := c.opts.HTTPClient.Do(req)
	if err != nil {
		return nil, transportError(ctx, c.opts.APIURL, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return nil, statusError(resp)
	}
	if a.out == nil {
		_, _ = io.Copy(io.Discard, resp.Body) // so that the connection is used again
		return resp.Header, nil
	}
	if err := json.NewDecoder(resp.Body).Decode(a.out); err != nil {
		return nil, transportError(ctx, c.opts.APIURL, fmt.Errorf("decode the reply: %w", err))
	}
	return resp.Header, nil
}

func (c *Client) request(ctx context.Context, a apiCall) (*http.Request, error) {
	var body io.Reader
	if a.in != nil {
		text, err := json.Marshal(a.in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	target := c.opts.APIURL + a.path
	if len(a.query) > 0 {
		target += "?" + a.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, a.method, target, body)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, a.header)
	req.Header.Set("User-Agent", userAgent)
	if c.opts.APIKey != "" {
		req.Header.Set("X-API-Key", c.opts.APIKey)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}
