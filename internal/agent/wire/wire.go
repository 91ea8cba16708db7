// Package wire is how the agent's services speak: the mapping of errors to
// Connect and HTTP, and the options every Connect handler is made with. Only
// the agent's own packages import it.
package wire

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// MaxMessageBytes bounds one message of a client, decoded.
const MaxMessageBytes = 32 << 20

// HandlerOptions are the options of every Connect handler. Replies are never
// compressed: they go over a unix socket, and one gzip writer holds more memory
// than the rest of the agent.
func HandlerOptions() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(MaxMessageBytes),
		connect.WithCompressMinBytes(1 << 62),
		connect.WithCodec(jsonCodec{}),
	}
}

// codes is the Connect code of each kind's name in the Connect protocol.
var codes = map[string]connect.Code{
	"internal":           connect.CodeInternal,
	"invalid_argument":   connect.CodeInvalidArgument,
	"not_found":          connect.CodeNotFound,
	"already_exists":     connect.CodeAlreadyExists,
	"resource_exhausted": connect.CodeResourceExhausted,
	"unauthenticated":    connect.CodeUnauthenticated,
	"permission_denied":  connect.CodePermissionDenied,
	"deadline_exceeded":  connect.CodeDeadlineExceeded,
	"unavailable":        connect.CodeUnavailable,
	"unimplemented":      connect.CodeUnimplemented,
}

// Error turns err into what a Connect handler returns: the code of its kind and
// its public message. Connect errors and nil pass through.
func Error(err error) error {
	var already *connect.Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	return connect.NewError(codes[errs.KindOf(err).ConnectCode()], errors.New(errs.PublicMessage(err)))
}

// WriteError answers an HTTP request with {"code":…,"message":…} and the status
// of err's kind.
func WriteError(w http.ResponseWriter, err error) {
	WriteStatus(w, errs.KindOf(err).HTTPStatus(), errs.PublicMessage(err))
}

// WriteStatus answers an HTTP request with {"code":status,"message":message}.
func WriteStatus(w http.ResponseWriter, status int, message string) {
	WriteJSON(w, status, struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message})
}

// WriteJSON answers an HTTP request with v, which must be marshallable.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"code":500,"message":"the reply cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A failed write means the caller is gone.
	_, _ = w.Write(append(body, '\n'))
}

// Errno gives a kind and a public message to an error of a file operation on
// path. The sandbox's own paths are no secret to its owner.
func Errno(err error, op, path string) error {
	if err == nil {
		return nil
	}
	kind, text := errs.Internal, "input/output error"
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		kind, text = kindOf(errno), errno.Error()
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		kind, text = errs.Timeout, "not done in time"
	}
	return errs.Wrap(err, kind, "%s %s: %s", op, path, text)
}

func kindOf(errno syscall.Errno) errs.Kind {
	switch errno {
	case syscall.ENOENT:
		return errs.NotFound
	case syscall.EEXIST, syscall.ENOTEMPTY:
		return errs.Conflict
	case syscall.ENOTDIR, syscall.EISDIR, syscall.EINVAL, syscall.ENAMETOOLONG, syscall.ELOOP, syscall.EXDEV:
		return errs.Invalid
	case syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.EBUSY, syscall.ETXTBSY:
		return errs.Forbidden
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return errs.NoSpace
	case syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOMEM:
		return errs.Exhausted
	default:
		return errs.Internal
	}
}

// Keepalive returns how long a stream may be silent: the whole seconds a client
// asks for in Keepalive-Ping-Interval, else a minute and a half.
func Keepalive(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Keepalive-Ping-Interval"))
	if err != nil || seconds <= 0 {
		return 90 * time.Second
	}
	return time.Duration(min(seconds, 3600)) * time.Second
}
