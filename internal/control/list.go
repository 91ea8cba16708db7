package control

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// ListRequest says which sandboxes to list. The zero value lists all, newest
// first.
type ListRequest struct {
	// Metadata are pairs a sandbox must carry.
	Metadata map[string]string
	// States are the states it may be in; none means running and paused.
	States []sandbox.State
	// Template is the ID or an alias of its template.
	Template string
	// StartedAfter, if not zero, is before its start.
	StartedAfter time.Time
	// OldestFirst turns the order round.
	OldestFirst bool
	// Limit bounds the page; 0 means everything on one page.
	Limit int
	// PageToken is Page.NextToken of the page before.
	PageToken string
}

// Page is a part of a list.
type Page struct {
	Sandboxes []Sandbox
	// NextToken leads to the next page; empty on the last one.
	NextToken string
	// TotalRunning counts the running sandboxes that match, on all pages.
	TotalRunning int
}

// position is where a sandbox stands in the order of lists: by start, then ID.
// Pages go on after a position, so sandboxes that come and go between two pages
// neither repeat nor hide others.
type position struct {
	millis int64
	id     sandbox.ID
}

func positionOf(s Sandbox) position { return position{s.StartedAt.UnixMilli(), s.ID} }

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.millis, q.millis), cmp.Compare(p.id, q.id))
}

func (p position) token() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d:%s", p.millis, p.id))
}

func parsePosition(token string) (p position, err error) {
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil {
		_, err = fmt.Sscanf(string(text), "%d:%s", &p.millis, &p.id)
	}
	if err != nil || p.token() != token {
		return p, errs.New(errs.Invalid, "nextToken is not one this server gave: take it from the X-Next-Token header of the page before")
	}
	return p, nil
}

// List returns the sandboxes that match. It reads memory only. A page token of
// another origin is errs.Invalid.
func (c *Control) List(req ListRequest) (Page, error) {
	sign := -1
	if req.OldestFirst {
		sign = 1
	}
	order := func(a, b Sandbox) int { return sign * positionOf(a).compare(positionOf(b)) }
	found, running := c.matching(req)
	if req.PageToken != "" {
		after, err := parsePosition(req.PageToken)
		if err != nil {
			return Page{}, err
		}
		found = slices.DeleteFunc(found, func(s Sandbox) bool { return sign*positionOf(s).compare(after) <= 0 })
	}
	slices.SortFunc(found, order)
	page := Page{Sandboxes: found, TotalRunning: running}
	if req.Limit > 0 && len(found) > req.Limit {
		page.Sandboxes = found[:req.Limit]
		page.NextToken = positionOf(found[req.Limit-1]).token()
	}
	return page, nil
}

// matching returns what matches, in no order, and how many of it are running.
func (c *Control) matching(req ListRequest) (found []Sandbox, running int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, e := range c.entries {
		if !req.matches(&e.sandbox) {
			continue
		}
		found = append(found, e.sandbox)
		if e.sandbox.State == sandbox.Running {
			running++
		}
	}
	return found, running
}

func (r ListRequest) matches(s *Sandbox) bool {
	if !listed(s.State) || len(r.States) > 0 && !slices.Contains(r.States, s.State) {
		return false
	}
	if r.Template != "" && r.Template != s.TemplateID && !slices.Contains(s.Aliases, r.Template) {
		return false
	}
	if !r.StartedAfter.IsZero() && !s.StartedAt.After(r.StartedAfter) {
		return false
	}
	for k, want := range r.Metadata {
		if have, ok := s.Metadata[k]; !ok || have != want {
			return false
		}
	}
	return true
}

// ParseStates reads a comma-separated list of the states clients know.
func ParseStates(text string) ([]sandbox.State, error) {
	var states []sandbox.State
	for name := range strings.SplitSeq(text, ",") {
		s := sandbox.State(name)
		if !listed(s) {
			return nil, errs.New(errs.Invalid, "state %q is unknown: use running, paused or both separated by a comma", name)
		}
		states = append(states, s)
	}
	return states, nil
}
