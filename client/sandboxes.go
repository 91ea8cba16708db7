package client

import (
	"context"
	"iter"
	"maps"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// State is where a sandbox is in its life.
type State string

// The states a client sees.
const (
	Running State = "running"
	Paused  State = "paused"
)

// SandboxInfo describes a sandbox.
type SandboxInfo struct {
	ID         string `json:"sandboxID"`
	TemplateID string `json:"templateID"`
	// Alias is a name of the template; empty if it has none.
	Alias     string    `json:"alias,omitempty"`
	State     State     `json:"state"`
	StartedAt time.Time `json:"startedAt"`
	// EndAt is when the sandbox ends unless its timeout is set anew.
	EndAt time.Time `json:"endAt"`
	CPUs  int       `json:"cpuCount"`
	// MemoryMB and DiskMB are the limits in MiB.
	MemoryMB int               `json:"memoryMB"`
	DiskMB   int               `json:"diskSizeMB"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// CreateOption changes what Create asks for.
type CreateOption func(*createRequest)

type createRequest struct {
	TemplateID string            `json:"templateID"`
	Timeout    int64             `json:"timeout,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	Env        map[string]string `json:"envVars,omitempty"`

	header http.Header
}

// WithTemplate names the template by ID or alias; without it, "base".
func WithTemplate(name string) CreateOption {
	return func(r *createRequest) { r.TemplateID = name }
}

// WithTimeout sets the time to live, rounded up to whole seconds; without it,
// the server's default (5 minutes).
func WithTimeout(d time.Duration) CreateOption {
	return func(r *createRequest) { r.Timeout = seconds(d) }
}

// WithMetadata attaches pairs that List can filter by. Used twice, it adds.
func WithMetadata(pairs map[string]string) CreateOption {
	return func(r *createRequest) { addTo(&r.Metadata, pairs) }
}

// WithEnv sets environment variables for every process in the sandbox. Used
// twice, it adds.
func WithEnv(pairs map[string]string) CreateOption {
	return func(r *createRequest) { addTo(&r.Env, pairs) }
}

// WithoutPool asks the server to launch a sandbox instead of taking one that
// waits in its pool. It serves measurements.
func WithoutPool() CreateOption {
	return func(r *createRequest) { r.header.Set(poolHeader, "bypass") }
}

// poolHeader is Sandlot's own: a request says bypass, a reply says hit or miss.
const poolHeader = "X-Sandlot-Pool"

func addTo(m *map[string]string, pairs map[string]string) {
	if *m == nil {
		*m = map[string]string{}
	}
	maps.Copy(*m, pairs)
}

// seconds rounds d up to whole seconds.
func seconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

// Create starts a sandbox and returns when it can be used.
func (c *Client) Create(ctx context.Context, opts ...CreateOption) (*Sandbox, error) {
	req := createRequest{TemplateID: "base", header: http.Header{}}
	for _, o := range opts {
		o(&req)
	}
	var wire sandboxReply
	header, err := c.call(ctx, apiCall{
		method: http.MethodPost, path: "/v2/sandboxes", header: req.header, in: &req, out: &wire,
	})
	if err != nil {
		return nil, err
	}
	sbx := c.newSandbox(wire)
	sbx.pool = header.Get(poolHeader)
	return sbx, nil
}

// sandboxReply is what create and connect answer.
type sandboxReply struct {
	ID          string `json:"sandboxID"`
	TemplateID  string `json:"templateID"`
	AccessToken string `json:"envdAccessToken"`
	Domain      string `json:"domain"`
}

// Connect returns a sandbox that exists. It lives at least another 5 minutes
// from now, and a paused one is resumed.
func (c *Client) Connect(ctx context.Context, id string) (*Sandbox, error) {
	var wire sandboxReply
	_, err := c.call(ctx, apiCall{
		method: http.MethodPost, path: "/v2/sandboxes/" + url.PathEscape(id) + "/connect", in: struct{}{}, out: &wire,
	})
	if err != nil {
		return nil, err
	}
	return c.newSandbox(wire), nil
}

// Kill ends a sandbox at once. If there is none, the error is ErrNotFound.
func (c *Client) Kill(ctx context.Context, id string) error {
	_, err := c.call(ctx, apiCall{method: http.MethodDelete, path: "/sandboxes/" + url.PathEscape(id)})
	return err
}

// Info describes a sandbox.
func (c *Client) Info(ctx context.Context, id string) (SandboxInfo, error) {
	var info SandboxInfo
	_, err := c.call(ctx, apiCall{method: http.MethodGet, path: "/sandboxes/" + url.PathEscape(id), out: &info})
	return info, err
}

// Metric is what a sandbox used at one moment and what it may use.
type Metric struct {
	At   time.Time `json:"timestamp"`
	CPUs int       `json:"cpuCount"`
	// CPUPercent is how much of all its processors it used since the metric
	// before, 0 to 100.
	CPUPercent float64 `json:"cpuUsedPct"`
	// Memory in bytes: MemoryUsed is without MemoryCache, what caches files.
	MemoryUsed  int64 `json:"memUsed"`
	MemoryCache int64 `json:"memCache"`
	MemoryTotal int64 `json:"memTotal"`
	// Disk in bytes; DiskUsed is 0 where the server does not count it.
	DiskUsed  int64 `json:"diskUsed"`
	DiskTotal int64 `json:"diskTotal"`
}

// Metrics returns what a sandbox used between two times, the oldest first; a
// zero time is no bound. The server takes one every 5 seconds and keeps fewer
// of those long ago. There is at least one right after Create.
func (c *Client) Metrics(ctx context.Context, id string, from, until time.Time) ([]Metric, error) {
	q := url.Values{}
	for name, t := range map[string]time.Time{"start": from, "end": until} {
		if !t.IsZero() {
			q.Set(name, strconv.FormatInt(t.Unix(), 10))
		}
	}
	var all []Metric
	_, err := c.call(ctx, apiCall{method: http.MethodGet, path: "/sandboxes/" + url.PathEscape(id) + "/metrics", query: q, out: &all})
	return all, err
}

// Filter selects sandboxes. Empty fields select all.
type Filter struct {
	// Metadata lists pairs a sandbox must carry, all of them.
	Metadata map[string]string
	// States lists the states wanted.
	States []State
	// Template is an ID or alias.
	Template string
	// StartedAfter excludes sandboxes that started earlier.
	StartedAfter time.Time
	// OldestFirst turns the order round; newest first is the default.
	OldestFirst bool
}

func (f Filter) query() url.Values {
	q := url.Values{}
	if len(f.Metadata) > 0 {
		q.Set("metadata", metadataQuery(f.Metadata))
	}
	if len(f.States) > 0 {
		texts := make([]string, len(f.States))
		for i, s := range f.States {
			texts[i] = string(s)
		}
		q.Set("state", strings.Join(texts, ","))
	}
	if f.Template != "" {
		q.Set("template", f.Template)
	}
	if !f.StartedAfter.IsZero() {
		q.Set("startedAfter", f.StartedAfter.UTC().Format(time.RFC3339Nano))
	}
	if f.OldestFirst {
		q.Set("order", "asc")
	}
	return q
}

// metadataQuery writes pairs as E2B's servers read them: a query string in
// itself, of keys and values that are escaped once more each.
func metadataQuery(pairs map[string]string) string {
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	q := url.Values{}
	for k, v := range pairs {
		q.Set(escape(k), escape(v))
	}
	return q.Encode()
}

// List yields the sandboxes f selects, asking the server page by page while the
// loop runs. After an error it ends.
func (c *Client) List(ctx context.Context, f Filter) iter.Seq2[SandboxInfo, error] {
	return func(yield func(SandboxInfo, error) bool) {
		query := f.query()
		for {
			var page []SandboxInfo
			header, err := c.call(ctx, apiCall{method: http.MethodGet, path: "/v2/sandboxes", query: query, out: &page})
			if err != nil {
				yield(SandboxInfo{}, err)
				return
			}
			for _, info := range page {
				if !yield(info, nil) {
					return
				}
			}
			if header.Get("X-Next-Token") == "" {
				return
			}
			query.Set("nextToken", header.Get("X-Next-Token"))
		}
	}
}
