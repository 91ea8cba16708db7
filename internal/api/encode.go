package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// clientID fills a field that old clients require and nobody reads.
const clientID = "sandlot"

// writeJSON answers with v. It returns an error only when v cannot be encoded,
// and then nothing was written; a client that went away is nobody's error.
func (s *server) writeJSON(w http.ResponseWriter, status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode reply: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data)
	return nil
}

// toList converts every element; the result is never nil, since JSON clients
// want [] and not null.
func toList[A, B any](in []A, convert func(A) B) []B {
	out := make([]B, 0, len(in))
	for _, v := range in {
		out = append(out, convert(v))
	}
	return out
}

// optional returns nil for the empty string.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func alias(names []string) *string {
	if len(names) == 0 {
		return nil
	}
	return &names[0]
}

func mebibytes(n int64) int { return int(n >> 20) }

func (s *server) toSandbox(b control.Sandbox) rest.Sandbox {
	return rest.Sandbox{
		SandboxID: string(b.ID), TemplateID: b.TemplateID, Alias: alias(b.Aliases), ClientID: clientID,
		EnvdVersion: b.EnvdVersion, EnvdAccessToken: optional(b.AccessToken),
		TrafficAccessToken: optional(b.TrafficToken), Domain: optional(s.control.Domain()),
	}
}

func toListed(b control.Sandbox) rest.ListedSandbox {
	return rest.ListedSandbox{
		SandboxID: string(b.ID), TemplateID: b.TemplateID, Alias: alias(b.Aliases), ClientID: clientID,
		EnvdVersion: b.EnvdVersion, StartedAt: b.StartedAt, EndAt: b.EndAt,
		CPUCount: b.Limits.CPUs, MemoryMB: mebibytes(b.Limits.MemoryBytes), DiskSizeMB: mebibytes(b.Limits.DiskBytes),
		State: toState(b.State), Metadata: b.Metadata,
	}
}

// toState maps onto the two states the wire knows.
func toState(s sandbox.State) rest.SandboxState {
	if s == sandbox.Paused {
		return rest.Paused
	}
	return rest.Running
}

func (s *server) toDetail(b control.Sandbox) (rest.SandboxDetail, error) {
	l := toListed(b)
	d := rest.SandboxDetail{
		SandboxID: l.SandboxID, TemplateID: l.TemplateID, Alias: l.Alias, ClientID: l.ClientID,
		EnvdVersion: l.EnvdVersion, StartedAt: l.StartedAt, EndAt: l.EndAt,
		CPUCount: l.CPUCount, MemoryMB: l.MemoryMB, DiskSizeMB: l.DiskSizeMB,
		State: l.State, Metadata: l.Metadata,
		EnvdAccessToken: optional(b.AccessToken), Domain: optional(s.control.Domain()),
		AllowInternetAccess: b.AllowInternet,
		Lifecycle:           &rest.Lifecycle{AutoResume: b.AutoResume, OnTimeout: rest.Kill},
	}
	if b.AutoPause {
		d.Lifecycle.OnTimeout = rest.Pause
	}
	if b.Network == nil {
		return d, nil
	}
	if err := json.Unmarshal(b.Network, &d.Network); err != nil {
		return d, fmt.Errorf("decode network: %w", err)
	}
	if p := d.Network.EgressProxy; p != nil {
		p.Password = nil
	}
	return d, nil
}

func (s *server) toTemplate(t sandbox.Template) rest.Template {
	l := t.Limits.OrDefault()
	spawns, last := s.control.Usage(t.ID)
	return rest.Template{
		TemplateID: t.ID, BuildID: t.BuildID, BuildStatus: rest.TemplateBuildStatusReady, BuildCount: 1,
		CPUCount: l.CPUs, MemoryMB: mebibytes(l.MemoryBytes), DiskSizeMB: mebibytes(l.DiskBytes),
		EnvdVersion: s.control.EnvdVersion(), Public: t.Public,
		Aliases: append([]string{}, t.Aliases...), Names: append([]string{}, t.Aliases...),
		CreatedAt: t.CreatedAt, UpdatedAt: t.CreatedAt,
		SpawnCount: spawns, LastSpawnedAt: optionalTime(last),
	}
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func toKey(k control.Key) rest.APIKey {
	return rest.APIKey{ID: k.ID, Name: k.Name, Mask: toMask(k), CreatedAt: k.CreatedAt, LastUsed: optionalTime(k.LastUsed)}
}

func toMask(k control.Key) rest.KeyMask {
	return rest.KeyMask{
		Prefix: k.Prefix, ValueLength: k.Length,
		MaskedValuePrefix: k.MaskPrefix, MaskedValueSuffix: k.MaskSuffix,
	}
}
