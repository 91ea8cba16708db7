package edge

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/control"
	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// target is what a request means.
type target struct {
	id   sandbox.ID
	port uint16
}

var errNoSandbox = errs.New(errs.NotFound, "the sandbox was not found")

// target finds the sandbox: by header first, then by host name, then by the
// signature of a file URL.
func (e *Edge) target(r *http.Request) (target, error) {
	if id := r.Header.Get("E2b-Sandbox-Id"); id != "" {
		return headerTarget(id, r.Header.Get("E2b-Sandbox-Port"))
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
		return t, errs.New(errs.Invalid, "E2b-Sandbox-Port %q is no port; give a number from 1 to 65535", port)
	}
	t.port = uint16(n)
	return t, nil
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
	if r.URL.Path != "/files" {
		return control.FileSignature{}, false
	}
	q := r.URL.Query()
	op := "read"
	if r.Method == http.MethodPost {
		op = "write"
	}
	return control.FileSignature{
		Path: q.Get("path"), Op: op, User: q.Get("username"),
		Expiration: q.Get("signature_expiration"), Signature: q.Get("signature"),
	}, q.Get("signature") != ""
}

type errorBody struct {
	SandboxID sandbox.ID `json:"sandboxId,omitempty"`
	Port      uint16     `json:"port,omitempty"`
	Code      int        `json:"code"`
	Message   string     `json:"message"`
}

func writeError(w http.ResponseWriter, status int, t target, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	body := errorBody{SandboxID: t.id, Code: status, Message: message}
	if t.port != AgentPort {
		body.Port = t.port
	}
	_ = json.NewEncoder(w).Encode(body) // the client has gone: nobody to tell
}
