package api

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/sandlot-dev/sandlot/gen/rest"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// methodError is 405, the one status the table of kinds does not know: only
// HTTP has methods.
type methodError struct{ method, allow string }

// Error implements error.
func (e methodError) Error() string {
	return fmt.Sprintf("%s is not possible here; use %s", e.method, e.allow)
}

// toWire returns what a client is told of err. The code is the HTTP status.
func toWire(err error) rest.Error {
	if m, ok := errors.AsType[methodError](err); ok {
		return rest.Error{Code: http.StatusMethodNotAllowed, Message: m.Error()}
	}
	message := errs.PublicMessage(err)
	if e, ok := errors.AsType[*errs.Error](err); ok && e.Hint != "" {
		message += ": " + e.Hint
	}
	return rest.Error{Code: errs.KindOf(err).HTTPStatus(), Message: message}
}

// writeError answers err and logs it when it is the server's fault.
func (s *server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	body := toWire(err)
	if body.Code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sandlot"`)
	}
	// What this version has not is the client's to know, not the operator's.
	ours := body.Code >= http.StatusInternalServerError && body.Code != http.StatusNotImplemented
	if ours && r.Context().Err() == nil {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "status", body.Code, "error", err)
	}
	s.reply(w, body.Code, body)
}

// reply is writeJSON for what surely can be encoded.
func (s *server) reply(w http.ResponseWriter, status int, body rest.Error) {
	_ = s.writeJSON(w, status, body)
}

// recoverPanic turns a panic into an error of the server. A handler that wants
// its connection cut gets that.
func (s *server) recoverPanic(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.log.Error("handler panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	s.reply(w, http.StatusInternalServerError, toWire(errs.New(errs.Internal, "")))
}
