package edge

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// Headers by which clients say what they mean. Names are in canonical form.
const (
	idHeader   = "E2b-Sandbox-Id"
	portHeader = "E2b-Sandbox-Port"
)

// target is what a request means.
type target struct {
	id   sandbox.ID
	port uint16
}

// Handles reports whether a request means a sandbox rather than the API.
func Handles(r *http.Request) bool {
	if r.Header.Get(idHeader) != "" {
		return true
	}
	if _, ok := parseHost(r.Host); ok {
		return true
	}
	_, signed := signature(r)
	return signed
}

var errNoSandbox = errs.New(errs.NotFound, "the sandbox was not found")

// target finds the sandbox: by header first, then by host name, then by the
// signature of a file URL.
func (e *Edge) target(r *http.Request) (target, error) {
	if len(r.Header[idHeader]) > 1 || len(r.Header[portHeader]) > 1 {
		return target{}, errs.New(errs.Invalid, "%s or %s is there more than once, so that it is not clear which sandbox is meant", idHeader, portHeader)
	}
	if id := r.Header.Get(idHeader); id != "" {
		return headerTarget(id, r.Header.Get(portHeader))
	}
	if t, ok := parseHost(r.Host); ok {
		return t, nil
	}
	f, ok := signature(r)
	if !ok {
		return target{}, errNoSandbox
	}
	s, err := e.registry.SandboxBySignature(f)
	return target{id: s.ID, port: AgentPort}, err
}

func headerTarget(id, port string) (target, error) {
	t := target{id: sandbox.ID(id), port: AgentPort}
	if !t.id.Valid() {
		return target{}, errNoSandbox
	}
	if port == "" {
		return t, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return t, errs.New(errs.Invalid, "%s %q is no port; give a number from 1 to 65535", portHeader, port)
	}
	t.port = uint16(n)
	return t, nil
}

// SandboxOf returns the sandbox of a label as getHost writes it, <port>-<id> and
// nothing more, and whether it is one: requests may add to it, but then one
// port has names without end.
func SandboxOf(label string) (sandbox.ID, bool) {
	t, ok := parseHost(label + ".")
	return t.id, ok && strings.EqualFold(label, fmt.Sprintf("%d-%s", t.port, t.id))
}

// parseHost reads <port>-<id>[-anything].<domain>[:port].
func parseHost(host string) (target, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	label, _, ok := strings.Cut(host, ".")
	if !ok {
		return target{}, false
	}
	portText, rest, ok := strings.Cut(strings.ToLower(label), "-")
	if !ok {
		return target{}, false
	}
	id, _, _ := strings.Cut(rest, "-")
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 || !sandbox.ID(id).Valid() {
		return target{}, false
	}
	return target{id: sandbox.ID(id), port: uint16(port)}, true
}

// signature reads what a signed file URL carries.
func signature(r *http.Request) (control.FileSignature, bool) {
	if r.URL.Path != "/files" || !strings.Contains(r.URL.RawQuery, "signature") {
		return control.FileSignature{}, false
	}
	q := r.URL.Query()
	op := "write"
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		op = "read"
	}
	return control.FileSignature{
		Path: q.Get("path"), Op: op, User: q.Get("username"),
		Expiration: q.Get("signature_expiration"), Signature: q.Get("signature"),
	}, q.Get("signature") != ""
}
