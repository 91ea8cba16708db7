package files

import (
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Download answers GET and HEAD /files with a file's bytes, also a range of them.
func (s *Service) Download(w http.ResponseWriter, r *http.Request) {
	coding := negotiate(r.Header.Values("Accept-Encoding"))
	if coding == "" {
		wire.WriteStatus(w, http.StatusNotAcceptable, "files are sent as identity or gzip; allow one of them in Accept-Encoding")
		return
	}
	f, info, err := s.open(r)
	if err != nil {
		s.httpError(w, err)
		return
	}
	defer f.Close()
	if err := serve(w, r, f, info, coding); err != nil {
		s.httpError(w, err)
	}
}

// open returns the regular file a request names.
func (s *Service) open(r *http.Request) (*os.File, os.FileInfo, error) {
	user, err := s.requestUser(r)
	if err != nil {
		return nil, nil, err
	}
	name := r.URL.Query().Get("path")
	if name == "" {
		return nil, nil, errs.New(errs.Invalid, "the query has no path; say which file to read")
	}
	path, err := resolve(name, user)
	if err != nil {
		return nil, nil, err
	}
	// A named pipe without a writer must not block here.
	f, err := openFile(path, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, nil, wire.Errno(err, "read", path)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = wire.Errno(err, "read", path)
	case info.IsDir():
		err = errs.New(errs.Invalid, "%s is a directory", path)
	case !info.Mode().IsRegular():
		err = errs.New(errs.Invalid, "%s is not a regular file", path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// sniffBytes is how much decides about the content type.
const sniffBytes = 512

func serve(w http.ResponseWriter, r *http.Request, f *os.File, info os.FileInfo, coding string) error {
	head := make([]byte, sniffBytes)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return wire.Errno(err, "read", f.Name())
	}
	h := w.Header()
	// From the content: the name would make net/http read the system's tables.
	h.Set("Content-Type", contentType(head[:n]))
	h.Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": filepath.Base(f.Name())}))
	h.Set("X-Content-Type-Options", "nosniff")
	switch {
	case coding == "gzip":
		h.Set("Content-Encoding", coding)
		compress(w, r, f)
	case info.Size() == 0 && n > 0:
		// Files of /proc and /sys have content but no size.
		stream(w, r, f)
	default:
		http.ServeContent(w, r, "", info.ModTime(), f)
	}
	return nil
}

func contentType(head []byte) string {
	if len(head) == 0 {
		return "application/octet-stream"
	}
	return http.DetectContentType(head)
}

// stream sends a file whose length is not known. A failed write means the caller
// is gone, and it is too late for a status.
func stream(w io.Writer, r *http.Request, f *os.File) {
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, f)
	}
}

// compress sends a file to a client that refuses it as it is.
func compress(w io.Writer, r *http.Request, f *os.File) {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	stream(z, r, f)
	if r.Method != http.MethodHead {
		_ = z.Close() // as in stream
	}
}

// requestUser returns whom a /files request acts as: the query's username before
// the Authorization header.
func (s *Service) requestUser(r *http.Request) (account.User, error) {
	if name := r.URL.Query().Get("username"); name != "" {
		return s.opts.Named(name)
	}
	return s.opts.User(r.Header.Get("Authorization"))
}

// httpError answers with err and logs what the client is not told.
func (s *Service) httpError(w http.ResponseWriter, err error) {
	if errs.KindOf(err) == errs.Internal {
		s.opts.Logger.Error("file request failed", "error", err)
	}
	wire.WriteError(w, err)
}

// negotiate returns the encoding to send a file in: identity if the client takes
// it, which is free, else gzip, else "".
func negotiate(values []string) string {
	identity, zipped, rest := -1.0, -1.0, -1.0 // -1: not mentioned
	for item := range strings.SplitSeq(strings.Join(values, ","), ",") {
		name, parameters, _ := strings.Cut(strings.TrimSpace(item), ";")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "identity":
			identity = quality(parameters)
		case "gzip", "x-gzip":
			zipped = quality(parameters)
		case "*":
			rest = quality(parameters)
		}
	}
	switch {
	case identity > 0, identity < 0 && rest != 0:
		return "identity"
	case zipped > 0, zipped < 0 && rest > 0:
		return "gzip"
	default:
		return ""
	}
}

// quality reads the q parameter, 1 if there is none.
func quality(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(p), "q="); ok {
			if q, err := strconv.ParseFloat(value, 64); err == nil {
				return q
			}
		}
	}
	return 1
}
