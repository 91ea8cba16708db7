package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"connectrpc.com/connect"
)

// The classes of refusals, for errors.Is.
var (
	// ErrInvalid: the request cannot be understood or is out of range.
	ErrInvalid = errors.New("invalid request")
	// ErrUnauthenticated: the API key is missing or wrong.
	ErrUnauthenticated = errors.New("not authenticated")
	// ErrForbidden: the key is known but does not allow this.
	ErrForbidden = errors.New("forbidden")
	// ErrNotFound: the sandbox, template, process, file or key does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: it exists already, or in a state that forbids the request.
	ErrConflict = errors.New("conflict")
	// ErrTooLarge: a body is over its limit.
	ErrTooLarge = errors.New("too large")
	// ErrExhausted: a limit is reached; trying later may help.
	ErrExhausted = errors.New("limit reached")
	// ErrInternal: a fault of the server; its log has the details.
	ErrInternal = errors.New("internal error")
	// ErrUnsupported: the server or its host cannot do this.
	ErrUnsupported = errors.New("unsupported")
	// ErrUnavailable: the server or the sandbox does not answer: dead, paused
	// or starting.
	ErrUnavailable = errors.New("unavailable")
	// ErrTimeout: the operation took longer than it may.
	ErrTimeout = errors.New("timed out")
	// ErrNoSpace: the sandbox's disk is full.
	ErrNoSpace = errors.New("no space left")
)

// classes maps the codes of errors, which are HTTP statuses, to their class.
var classes = map[int]error{
	http.StatusBadRequest:            ErrInvalid,
	http.StatusUnauthorized:          ErrUnauthenticated,
	http.StatusForbidden:             ErrForbidden,
	http.StatusNotFound:              ErrNotFound,
	http.StatusConflict:              ErrConflict,
	http.StatusRequestEntityTooLarge: ErrTooLarge,
	http.StatusTooManyRequests:       ErrExhausted,
	http.StatusInternalServerError:   ErrInternal,
	http.StatusNotImplemented:        ErrUnsupported,
	http.StatusBadGateway:            ErrUnavailable,
	http.StatusServiceUnavailable:    ErrUnavailable,
	http.StatusGatewayTimeout:        ErrTimeout,
	http.StatusInsufficientStorage:   ErrNoSpace,
}

// rpcStatus maps the data plane's error codes to the same numbers.
var rpcStatus = map[connect.Code]int{
	connect.CodeInvalidArgument:    http.StatusBadRequest,
	connect.CodeOutOfRange:         http.StatusBadRequest,
	connect.CodeUnauthenticated:    http.StatusUnauthorized,
	connect.CodePermissionDenied:   http.StatusForbidden,
	connect.CodeNotFound:           http.StatusNotFound,
	connect.CodeAlreadyExists:      http.StatusConflict,
	connect.CodeAborted:            http.StatusConflict,
	connect.CodeFailedPrecondition: http.StatusConflict,
	connect.CodeResourceExhausted:  http.StatusTooManyRequests,
	connect.CodeUnimplemented:      http.StatusNotImplemented,
	connect.CodeUnavailable:        http.StatusServiceUnavailable,
	connect.CodeDeadlineExceeded:   http.StatusGatewayTimeout,
	connect.CodeCanceled:           http.StatusServiceUnavailable,
}

// Error is a refusal by the server or a sandbox.
type Error struct {
	// Code is an HTTP status; refusals of the data plane are translated to one.
	Code int
	// Message says what happened and what to do about it.
	Message string
	cause   error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Is reports whether target is the class of e, e.g. ErrNotFound.
func (e *Error) Is(target error) bool {
	class, known := classes[e.Code]
	return known && class == target
}

// Unwrap returns the cause, if it is known on this side of the wire.
func (e *Error) Unwrap() error { return e.cause }

// UnreachableError says that nothing answers at a server's address.
type UnreachableError struct {
	// URL is the address tried.
	URL   string
	cause error
}

// Error names the address.
func (e *UnreachableError) Error() string { return "no sandlot server answers at " + e.URL }

// Is reports whether target is ErrUnavailable.
func (e *UnreachableError) Is(target error) bool { return target == ErrUnavailable }

// Unwrap returns what the network said.
func (e *UnreachableError) Unwrap() error { return e.cause }

// ExitError is returned for a command that ran and ended with a code other
// than zero.
type ExitError struct {
	// Result holds the code and the output.
	Result Result
	// Reason says why the command ended if not by itself, e.g. "signal: killed", or which
	// time limit it ran into.
	Reason string
}

// Error gives the exit code and the last line of standard error, if any.
func (e *ExitError) Error() string {
	text := fmt.Sprintf("command ended with exit code %d", e.Result.ExitCode)
	if e.Reason != "" && !strings.HasPrefix(e.Reason, "exit status") {
		text += " (" + e.Reason + ")"
	}
	lines := strings.Split(strings.TrimSpace(e.Result.Stderr), "\n")
	if last := lines[len(lines)-1]; last != "" {
		text += ": " + last
	}
	return text
}

// maxErrorBody bounds how much of an error's body is read.
const maxErrorBody = 64 << 10

// statusError turns a reply that is no success into an Error.
func statusError(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var wire struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &wire) != nil || wire.Message == "" {
		wire.Message = "the server answered " + resp.Status
	}
	return &Error{Code: resp.StatusCode, Message: wire.Message}
}

// transportError classifies what a round trip returned instead of a reply.
func transportError(ctx context.Context, base string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("request ended early: %w", context.Cause(ctx))
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return &UnreachableError{URL: base, cause: err}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return &Error{
			Code: http.StatusServiceUnavailable, cause: err,
			Message: "the connection to the server broke: if it was stopped, the sandbox and what runs in it go on, and the next start of the server finds them",
		}
	}
	return &Error{Code: http.StatusServiceUnavailable, Message: "the connection broke: " + err.Error(), cause: err}
}

// rpcError classifies an error of a call to the data plane.
func rpcError(ctx context.Context, base string, err error) error {
	if err == nil {
		return nil
	}
	if refused, ok := errors.AsType[*Error](err); ok {
		return refused
	}
	wire, ok := errors.AsType[*connect.Error](err)
	if !ok || !connect.IsWireError(err) || ctx.Err() != nil {
		return transportError(ctx, base, err)
	}
	code, known := rpcStatus[wire.Code()]
	if !known {
		code = http.StatusInternalServerError
	}
	if wire.Code() == connect.CodeDeadlineExceeded {
		err = context.DeadlineExceeded // the server's clock was ahead of ctx
	}
	return &Error{Code: code, Message: wire.Message(), cause: err}
}

// rpcHTTP is the HTTP client the generated clients use. Replies that did not
// come from the sandbox's agent but from the server in front of it (they carry
// a number as code) become an *Error, which connect-go hands through.
type rpcHTTP struct{ *http.Client }

// Do sends a request.
func (c rpcHTTP) Do(req *http.Request) (*http.Response, error) {
	resp, err := c.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		resp.Body = drainedBody{resp.Body}
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var wire struct {
		Code string `json:"code"`
	}
	if json.Unmarshal(body, &wire) == nil && wire.Code != "" {
		return resp, nil
	}
	return nil, statusError(resp)
}

// drainedBody reads what little may be left of a body before it closes it:
// connect-go stops at the last message of a stream, before HTTP's own end, and
// a connection is only used again once that was read.
type drainedBody struct{ io.ReadCloser }

// drainMost bounds what is read in vain.
const drainMost = 512

// Close reads and closes. Streams that have not ended must be canceled first.
func (b drainedBody) Close() error {
	_, _ = io.CopyN(io.Discard, b.ReadCloser, drainMost)
	return b.ReadCloser.Close()
}
