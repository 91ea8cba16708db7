package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Key is an API key as the server shows it.
type Key struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Text is the key itself; only CreateKey returns it.
	Text string  `json:"key,omitempty"`
	Mask KeyMask `json:"mask"`
	// CreatedAt and LastUsed are in UTC; LastUsed is nil for a key never used.
	CreatedAt time.Time  `json:"createdAt"`
	LastUsed  *time.Time `json:"lastUsed,omitempty"`
}

// KeyMask is the part of a key that may be shown.
type KeyMask struct {
	Prefix      string `json:"prefix"`
	ValueLength int    `json:"valueLength"`
	ValuePrefix string `json:"maskedValuePrefix"`
	ValueSuffix string `json:"maskedValueSuffix"`
}

// String returns the mask for people, such as e2b_12…9f.
func (m KeyMask) String() string { return m.Prefix + m.ValuePrefix + "…" + m.ValueSuffix }

// CreateKey makes an API key. Its text cannot be asked for again.
func (c *Client) CreateKey(ctx context.Context, name string) (Key, error) {
	var key Key
	_, err := c.call(ctx, apiCall{
		method: http.MethodPost, path: "/api-keys", in: map[string]string{"name": name}, out: &key,
	})
	return key, err
}

// Keys lists the API keys, the oldest first.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	var keys []Key
	_, err := c.call(ctx, apiCall{method: http.MethodGet, path: "/api-keys", out: &keys})
	return keys, err
}

// RevokeKey makes an API key useless. If there is none with that ID, the error
// is ErrNotFound; the last key cannot be revoked (ErrConflict).
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	_, err := c.call(ctx, apiCall{method: http.MethodDelete, path: "/api-keys/" + url.PathEscape(id)})
	return err
}

// Template is what sandboxes are made from.
type Template struct {
	ID      string   `json:"templateID"`
	BuildID string   `json:"buildID"`
	Status  string   `json:"buildStatus"`
	Aliases []string `json:"aliases"`
	CPUs    int      `json:"cpuCount"`
	// MemoryMB and DiskMB are the limits of its sandboxes in MiB.
	MemoryMB   int       `json:"memoryMB"`
	DiskMB     int       `json:"diskSizeMB"`
	Public     bool      `json:"public"`
	CreatedAt  time.Time `json:"createdAt"`
	UpdatedAt  time.Time `json:"updatedAt"`
	SpawnCount int64     `json:"spawnCount"`
}

// Templates lists the templates.
func (c *Client) Templates(ctx context.Context) ([]Template, error) {
	var all []Template
	_, err := c.call(ctx, apiCall{method: http.MethodGet, path: "/templates", out: &all})
	return all, err
}
