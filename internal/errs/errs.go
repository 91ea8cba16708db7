// Package errs is the vocabulary of errors: a Kind says what class of failure
// happened, a public message says what the caller may read and do about it, and
// the cause stays for the log. It owns the one table from Kind to HTTP status,
// Connect code and exit code. Anyone may import it; it imports only the
// standard library.
package errs

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind is the class of a failure. The zero value is Internal.
type Kind int

// The kinds. Every one has a row in the table below.
const (
	Internal        Kind = iota // a fault of ours
	Invalid                     // the request cannot be understood or is out of range
	NotFound                    // what was named does not exist
	Conflict                    // it exists, but in a state that forbids the request
	Exhausted                   // a limit is reached; trying later may help
	Unauthenticated             // no or wrong credentials
	Forbidden                   // known, but not allowed
	Timeout                     // the deadline passed
	Unavailable                 // not reachable now: dead, paused or starting
	Unsupported                 // this build, host or driver cannot do it
	NoSpace                     // the disk or its quota is full
	TooLarge                    // a body over its limit
)

type row struct {
	name    string
	status  int
	connect string
	exit    int
}

var table = [...]row{
	Internal:        {"internal", http.StatusInternalServerError, "internal", 70},
	Invalid:         {"invalid", http.StatusBadRequest, "invalid_argument", 64},
	NotFound:        {"not found", http.StatusNotFound, "not_found", 66},
	Conflict:        {"conflict", http.StatusConflict, "already_exists", 73},
	Exhausted:       {"exhausted", http.StatusTooManyRequests, "resource_exhausted", 75},
	Unauthenticated: {"unauthenticated", http.StatusUnauthorized, "unauthenticated", 77},
	Forbidden:       {"forbidden", http.StatusForbidden, "permission_denied", 77},
	Timeout:         {"timeout", http.StatusGatewayTimeout, "deadline_exceeded", 75},
	Unavailable:     {"unavailable", http.StatusServiceUnavailable, "unavailable", 69},
	Unsupported:     {"unsupported", http.StatusNotImplemented, "unimplemented", 69},
	NoSpace:         {"no space", http.StatusInsufficientStorage, "resource_exhausted", 74},
	TooLarge:        {"too large", http.StatusRequestEntityTooLarge, "resource_exhausted", 64},
}

// Kinds returns every kind, for tables that must be complete.
func Kinds() []Kind {
	all := make([]Kind, len(table))
	for i := range all {
		all[i] = Kind(i)
	}
	return all
}

func (k Kind) row() row {
	if int(k) < 0 || int(k) >= len(table) {
		return table[Internal]
	}
	return table[k]
}

// String returns the kind's name in words.
func (k Kind) String() string { return k.row().name }

// HTTPStatus returns the status an HTTP handler answers with.
func (k Kind) HTTPStatus() int { return k.row().status }

// ConnectCode returns the Connect protocol's name of the code.
func (k Kind) ConnectCode() string { return k.row().connect }

// ExitCode returns the process exit code (sysexits.h where one fits).
func (k Kind) ExitCode() int { return k.row().exit }

// FromHTTPStatus returns the kind whose row holds status, Internal if none does.
func FromHTTPStatus(status int) Kind {
	for k, r := range table {
		if r.status == status {
			return Kind(k)
		}
	}
	return Internal
}

// Error is an error with a kind and a message that may be shown to a client.
type Error struct {
	Kind   Kind
	Public string
	// Hint, if set, says what to do about it; the command line prints it.
	Hint  string
	Cause error
}

// Error returns the public message and the cause, for logs.
func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Public
	}
	if e.Public == "" {
		return e.Cause.Error()
	}
	return e.Public + ": " + e.Cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// New returns an error of a kind with a public message.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Public: fmt.Sprintf(format, args...)}
}

// Wrap gives err a kind and a public message. A nil err gives nil.
func Wrap(err error, k Kind, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: k, Public: fmt.Sprintf(format, args...), Cause: err}
}

// WithHint returns e with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// KindOf returns the kind of the outermost Error in err's chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Is reports whether err has kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// PublicMessage returns what a client may read of err. The text of errors that
// carry no public message stays inside.
func PublicMessage(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Public != "" {
		return e.Public
	}
	return "internal error; the server's log has the details"
}
