package sandbox

import "time"

// BaseTemplate is the alias of the template every installation has.
const BaseTemplate = "base"

// Template is what sandboxes are made from: an immutable image and the
// defaults of the sandboxes that use it.
type Template struct {
	// ID is 20 characters of [a-z0-9]; Aliases are the names people use.
	ID      string   `json:"id"`
	BuildID string   `json:"build_id"`
	Aliases []string `json:"aliases"`
	// Image is the content address of the root file system (see package image).
	Image  string `json:"image"`
	Limits Limits `json:"limits"`
	// Env, User and Workdir are the defaults of processes started through the API.
	Env       map[string]string `json:"env,omitempty"`
	User      string            `json:"user"`
	Workdir   string            `json:"workdir"`
	Public    bool              `json:"public"`
	SizeBytes int64             `json:"size_bytes"`
	CreatedAt time.Time         `json:"created_at"`
}

// NewTemplateID returns a fresh random template ID.
func NewTemplateID() string { return randomText(20) }

// LaunchRequest is what a sandbox is launched with.
type LaunchRequest struct {
	Template Template
	// Env is added to the environment of every process started through the API.
	Env map[string]string
}
