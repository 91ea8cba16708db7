package client

import (
	"context"
	"net/http"
	"net/url"
)

// TemplateLimits are limits of the sandboxes made from a template. Zero fields
// stay as they are.
type TemplateLimits struct {
	CPUs int `json:"cpuCount,omitempty"`
	// MemoryMB and DiskMB are in MiB.
	MemoryMB int `json:"memoryMB,omitempty"`
	DiskMB   int `json:"diskSizeMB,omitempty"`
}

// SetTemplateLimits changes the limits of the sandboxes made from a template
// from now on, and returns the template. ref is its ID or a name of it. It
// fails with ErrNotFound or ErrInvalid.
func (c *Client) SetTemplateLimits(ctx context.Context, ref string, l TemplateLimits) (Template, error) {
	var t Template
	_, err := c.call(ctx, apiCall{method: http.MethodPatch, path: "/v2/templates/" + url.PathEscape(ref), in: l, out: &t})
	return t, err
}
