// Package store is the contract of the durable registry: which sandboxes there
// are, which keys open the door, what the node needs to find its sandboxes
// again, how often templates were used. It owns the records and the Store
// interface; sqlite keeps them in a file, memory forgets them, and both pass
// the suite in storetest. Control and node import it; implementations are
// imported by the composition root and tests only.
package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Store is the whole registry. All methods of it and its parts are safe for
// concurrent use, block for at most a few disk writes, and either did all of
// what they were asked or, when they return an error, nothing. A cancelled
// context is an error. What they return belongs to the caller.
//
// A write that returned survives the death of the process. The writes of Keys
// also survive the death of the machine; others may be lost with power, which
// costs nothing since their sandboxes are lost with it.
type Store interface {
	Sandboxes
	Boxes
	Keys
	Usages
	// Close releases the store. Later calls return an error.
	Close() error
}

// Sandboxes is the registry proper: one row per sandbox a client was promised.
type Sandboxes interface {
	// PutSandbox inserts the row of s.ID or replaces it.
	PutSandbox(ctx context.Context, s Sandbox) error
	// DeleteSandbox removes a row. It is no error when there is none.
	DeleteSandbox(ctx context.Context, id sandbox.ID) error
	// Sandboxes returns every row, ordered by ID.
	Sandboxes(ctx context.Context) ([]Sandbox, error)
}

// Boxes is where the node keeps what it needs to find sandboxes again after a
// restart. A box may exist long before its sandbox (while it is pooled).
type Boxes interface {
	// PutBox inserts the box of b.ID or replaces it.
	PutBox(ctx context.Context, b Box) error
	// DeleteBox removes a box. It is no error when there is none.
	DeleteBox(ctx context.Context, id sandbox.ID) error
	// Boxes returns every box, ordered by ID.
	Boxes(ctx context.Context) ([]Box, error)
}

// Keys holds the API keys, never their text.
type Keys interface {
	// AddKey inserts a key. It returns an error of kind errs.Conflict when its ID
	// or its hash is taken.
	AddKey(ctx context.Context, k Key) error
	// TouchKey notes when a key was last used. An unknown ID is no error.
	TouchKey(ctx context.Context, id string, at time.Time) error
	// DeleteKey removes a key. It is no error when there is none.
	DeleteKey(ctx context.Context, id string) error
	// Keys returns every key, oldest first.
	Keys(ctx context.Context) ([]Key, error)
}

// Usages counts how often templates were used.
type Usages interface {
	// PutUsage inserts or replaces the counters of u.TemplateID.
	PutUsage(ctx context.Context, u Usage) error
	// Usages returns all counters, ordered by template ID.
	Usages(ctx context.Context) ([]Usage, error)
}

// Sandbox is a row of the registry: all the control plane says about a sandbox.
// Its maps and slices are never changed once the row exists.
type Sandbox struct {
	ID sandbox.ID `json:"id"`
	// TemplateID, BuildID and Aliases are those of the template at creation.
	TemplateID string        `json:"template_id"`
	BuildID    string        `json:"build_id,omitempty"`
	Aliases    []string      `json:"aliases,omitempty"`
	State      sandbox.State `json:"state"`
	// StartedAt and EndAt are in UTC, in whole milliseconds.
	StartedAt time.Time         `json:"started_at"`
	EndAt     time.Time         `json:"end_at"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	// AccessToken opens the data plane. It is empty if Insecure, when the data
	// plane is open to all who know the ID.
	AccessToken string `json:"access_token"`
	Insecure    bool   `json:"insecure,omitempty"`
	// TrafficToken, if set, is asked for on the sandbox's ports.
	TrafficToken string `json:"traffic_token,omitempty"`
	// MaskHost, if set, is the Host header servers inside see; it may hold
	// sandbox.PortPlaceholder. HTTPSPorts are those whose servers speak TLS.
	MaskHost    string         `json:"mask_host,omitempty"`
	HTTPSPorts  []uint16       `json:"https_ports,omitempty"`
	EnvdVersion string         `json:"envd_version"`
	Limits      sandbox.Limits `json:"limits"`
	// Network is the network configuration as the client gave it, nil if none.
	Network json.RawMessage `json:"network,omitempty"`
	// AllowInternet is what the client said, nil if nothing.
	AllowInternet *bool `json:"allow_internet,omitempty"`
	// AutoPause, AutoPauseMemory and AutoResume say what happens at the end of
	// life and on traffic to a paused sandbox.
	AutoPause       bool `json:"auto_pause,omitempty"`
	AutoPauseMemory bool `json:"auto_pause_memory,omitempty"`
	AutoResume      bool `json:"auto_resume,omitempty"`
}

// Box is the node's runtime state of one sandbox; only the node reads Data.
type Box struct {
	ID   sandbox.ID
	Data []byte
}

// Key is an API key without its text.
type Key struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Hash is the SHA-256 of the key's text.
	Hash [32]byte `json:"-"`
	// Prefix is what all keys begin with; Length counts the characters after it,
	// of which MaskPrefix are the first and MaskSuffix the last few.
	Prefix     string    `json:"prefix"`
	Length     int       `json:"length"`
	MaskPrefix string    `json:"mask_prefix"`
	MaskSuffix string    `json:"mask_suffix"`
	CreatedAt  time.Time `json:"created_at"`
	// LastUsed is zero for a key never used.
	LastUsed time.Time `json:"last_used"`
}

// Usage counts the use of one template.
type Usage struct {
	TemplateID string
	// Spawns is how many sandboxes were made from it, LastSpawn when the last.
	Spawns    int64
	LastSpawn time.Time
}
