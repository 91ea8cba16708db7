package edge

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
)

// proxyFailed answers when the sandbox could not be reached, or gave no answer.
// It never returns without an answer: net/http would give "200 OK".
func (e *Edge) proxyFailed(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	cancelled := errors.Is(err, context.Canceled)
	if fault := c.body.fault(cancelled); fault != nil {
		w.Header().Set("Connection", "close")
		e.fail(w, r, c.target, errs.Wrap(fault, errs.Invalid, "the request's body ended early or is malformed"))
		return
	}
	if cancelled && !c.body.wasInterrupted() { // the client went away
		panic(http.ErrAbortHandler)
	}
	if _, gone := e.registry.Get(c.id); gone != nil {
		e.fail(w, r, c.target, gone)
		return
	}
	e.logger.Debug("sandbox not reached", "sandbox_id", c.id, "port", c.port, "error", err)
	e.fail(w, r, c.target, unreachable(c.target, err))
}

// unreachable says what somebody can do about a sandbox that runs but did not
// answer.
func unreachable(t target, err error) error {
	e, _ := errors.AsType[*errs.Error](err)
	switch {
	case t.port == AgentPort:
		return errs.Wrap(err, errs.Unavailable, "the sandbox's agent does not answer")
	case errors.Is(err, errDial) && e != nil && e.Kind == errs.Unavailable:
		return because(err, "the sandbox is running, but nothing listens on port %d inside it", t.port).
			WithHint("start a server on port %d inside the sandbox and try again", t.port)
	case errors.Is(err, errDial):
		return because(err, "no connection to port %d inside the sandbox came about in time", t.port).
			WithHint("look whether the server there still accepts connections")
	case isTLS(err):
		return because(err, "what listens on port %d inside the sandbox does not speak TLS", t.port).
			WithHint("take the port out of network.httpsPorts, or start its server with TLS")
	case strings.Contains(err.Error(), "malformed HTTP"): // net/http has no type for it
		return because(err, "what listens on port %d inside the sandbox does not speak HTTP", t.port).
			WithHint("if it speaks TLS, name the port in network.httpsPorts when you create the sandbox")
	default:
		return because(err, "the server on port %d inside the sandbox closed the connection without an answer", t.port).
			WithHint("look at what it wrote to its log")
	}
}

func because(err error, format string, args ...any) *errs.Error {
	e := errs.New(errs.Unavailable, format, args...)
	e.Cause = err
	return e
}

func isTLS(err error) bool {
	_, record := errors.AsType[tls.RecordHeaderError](err)
	_, alert := errors.AsType[tls.AlertError](err)
	return record || alert
}

// errorBody is what programs read, in the form of E2B's.
type errorBody struct {
	SandboxID sandbox.ID `json:"sandboxId,omitempty"`
	Message   string     `json:"message"`
	Port      uint16     `json:"port,omitempty"`
	Code      int        `json:"code"`
	hint      string
}

// fail answers with an error: a page for people, JSON for programs. At the data
// plane a sandbox that is not there is a bad gateway: clients tell by it that
// the sandbox has ended.
func (e *Edge) fail(w http.ResponseWriter, r *http.Request, t target, err error) {
	body := errorBody{SandboxID: t.id, Code: errs.KindOf(err).HTTPStatus(), Message: errs.PublicMessage(err)}
	if body.Code == http.StatusServiceUnavailable || errors.Is(err, errNoSandbox) || (t.id != "" && e.missing(t.id)) {
		body.Code = http.StatusBadGateway
	}
	if t.port != AgentPort {
		body.Port = t.port
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		body.hint = e.Hint
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Add("Vary", "Accept")
	if wantsPage(r.Header["Accept"]) {
		e.page.write(w, body)
		return
	}
	if body.hint != "" {
		body.Message += ": " + body.hint
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(body.Code)
	_ = json.NewEncoder(w).Encode(body) // the client has gone: nobody to tell
}

func (e *Edge) missing(id sandbox.ID) bool {
	_, err := e.registry.Get(id)
	return err != nil
}
