package files

import (
	"context"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/sandlot-dev/sandlot/gen/envd/filesystem"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// maxListBody bounds a request for a listing, in bytes.
	maxListBody = 64 << 10
	// listChunk is how much of a listing is sent at once, in bytes.
	listChunk = 64 << 10
)

// Lists answers ListDir as next would, the service's Connect handler, but sends
// the entries while it finds them: Connect makes the whole reply first, which for
// a million entries is more memory than many a sandbox has. Requests in other
// forms than the SDKs' go to next.
func (s *Service) Lists(next http.Handler) http.HandlerFunc {
	failures := connect.NewErrorWriter()
	return func(w http.ResponseWriter, r *http.Request) {
		kind, timeout, ok := listForm(r)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		if timeout > 0 {
			ctx, cancel := context.WithTimeout(r.Context(), timeout)
			defer cancel()
			r = r.WithContext(ctx)
		}
		out := &listWriter{w: w, json: kind == "application/json"}
		err := s.answerList(r, out)
		switch {
		case err == nil:
			out.close()
		case out.sent:
			// Too late for a status: the broken connection says that it is not whole.
			panic(http.ErrAbortHandler)
		default:
			_ = failures.Write(w, r, s.fail(err)) // a failed write means the caller is gone
		}
	}
}

// answerList reads one request and writes its entries to out.
func (s *Service) answerList(r *http.Request, out *listWriter) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxListBody+1))
	switch {
	case err != nil:
		return errs.Wrap(err, errs.Invalid, "the body ended early")
	case len(body) > maxListBody:
		return errs.New(errs.Invalid, "the body is over %d bytes", maxListBody)
	}
	var req pb.ListDirRequest
	if out.json {
		err = wire.UnmarshalJSON(body, &req)
	} else {
		err = proto.Unmarshal(body, &req)
	}
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "the body is no request for a listing: %v", err)
	}
	return s.list(r.Context(), r.Header.Get("Authorization"), &req, func(l *lister) error { return out.add(l.entry) })
}

// listForm reports whether a request has the form the SDKs send, its content
// type, and its timeout, 0 for none.
func listForm(r *http.Request) (kind string, timeout time.Duration, ok bool) {
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || r.Method != http.MethodPost || kind != "application/json" && kind != "application/proto" ||
		r.Header.Get("Content-Encoding") != "" || len(parameters) > 1 || parameters["charset"] != "" && parameters["charset"] != "utf-8" {
		return "", 0, false
	}
	if version := r.Header.Get("Connect-Protocol-Version"); version != "" && version != "1" {
		return "", 0, false
	}
	if text := r.Header.Get("Connect-Timeout-Ms"); text != "" {
		ms, err := strconv.ParseUint(text, 10, 63)
		if err != nil || len(text) > 10 || ms == 0 {
			return "", 0, false
		}
		timeout = time.Duration(ms) * time.Millisecond
	}
	return kind, timeout, true
}

// listWriter encodes a ListDirResponse entry by entry.
type listWriter struct {
	w    http.ResponseWriter
	json bool
	buf  []byte
	any  bool // an entry was added
	sent bool // the reply has begun
}

// add appends an entry and sends what there is when it is enough.
func (o *listWriter) add(e *pb.EntryInfo) error {
	if !o.json {
		o.buf = protowire.AppendTag(o.buf, 1, protowire.BytesType)
		o.buf = protowire.AppendVarint(o.buf, uint64(proto.Size(e)))
		var err error
		if o.buf, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(o.buf, e); err != nil {
			return err
		}
	} else {
		opening := `,`
		if !o.any {
			opening = `{"entries":[`
		}
		o.buf = wire.AppendEntry(append(o.buf, opening...), e)
	}
	o.any = true
	if len(o.buf) < listChunk {
		return nil
	}
	return o.flush()
}

func (o *listWriter) flush() error {
	if !o.sent {
		kind := "application/proto"
		if o.json {
			kind = "application/json"
		}
		o.w.Header().Set("Content-Type", kind)
	}
	o.sent = true
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	return err
}

// close sends the rest. A failed write means the caller is gone.
func (o *listWriter) close() {
	switch {
	case o.json && o.any:
		o.buf = append(o.buf, "]}"...)
	case o.json:
		o.buf = append(o.buf, "{}"...)
	}
	_ = o.flush()
}
