package files

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// Download answers GET and HEAD /files with a file's bytes, also ranges of them.
func (s *Service) Download(w http.ResponseWriter, r *http.Request) {
	accepted := negotiate(r.Header.Values("Accept-Encoding"))
	w.Header().Set("Vary", "Accept-Encoding")
	if !accepted.identity && !accepted.gzip {
		wire.WriteStatus(w, http.StatusNotAcceptable, "files are sent as identity or gzip; allow one of them in Accept-Encoding")
		return
	}
	f, info, err := s.open(r)
	if err != nil {
		s.httpError(w, err)
		return
	}
	defer f.Close()
	if err := s.serve(w, r, f, info, accepted); err != nil {
		s.httpError(w, err)
	}
}

// open returns the regular file a request names.
func (s *Service) open(r *http.Request) (*os.File, os.FileInfo, error) {
	user, err := s.requestUser(r)
	if err != nil {
		return nil, nil, err
	}
	name, err := pathOf(r)
	if err != nil {
		return nil, nil, err
	}
	if name == "" {
		return nil, nil, errs.New(errs.Invalid, "the query has no path; say which file to read")
	}
	path, err := resolve(name, user)
	if err != nil {
		return nil, nil, err
	}
	return openRegular(path)
}

// openRegular opens the file at path, or where the link at path leads, for
// reading.
func openRegular(path string) (*os.File, os.FileInfo, error) {
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

func (s *Service) serve(w http.ResponseWriter, r *http.Request, f *os.File, info os.FileInfo, accepted codings) error {
	head := make([]byte, sniffBytes)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return wire.Errno(err, "read", f.Name())
	}
	h := w.Header()
	// From the content: the name would make net/http read the system's tables.
	h.Set("Content-Type", contentType(head[:n]))
	h.Set("Content-Disposition", mime.FormatMediaType("inline", map[string]string{"filename": filepath.Base(f.Name())}))
	h.Set("X-Content-Type-Options", "nosniff")
	// Browsers would otherwise guess how long a file stays as it is.
	h.Set("Cache-Control", "no-cache")
	z, err := s.compressor(r, info, accepted)
	switch {
	case err != nil:
		return err
	case z != nil:
		defer s.release(z)
		h.Set("Content-Encoding", "gzip")
		z.Reset(w)
		s.stream(z, r, f)
		if r.Method != http.MethodHead {
			_ = z.Close() // as in stream
		}
	case synthetic(f.Name()):
		// Files of /proc and /sys have content, but their size is none or a guess.
		s.stream(w, r, f)
	default:
		h.Set("Etag", etag(info))
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

// etag names a version of a file: which inode, when changed, how long. A range
// asked for with If-Range then never joins two versions.
func etag(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf(`"%x-%x-%x-%x"`, st.Ino, st.Ctim.Sec, st.Ctim.Nsec, st.Size)
}

// stream sends a file whose length is not known. A failed write means the caller
// is gone, and it is too late for a status.
func (s *Service) stream(w io.Writer, r *http.Request, f *os.File) {
	if r.Method == http.MethodHead {
		return
	}
	buf := s.buffers.take()
	defer s.buffers.give(buf)
	_, _ = io.CopyBuffer(onlyWriter{w}, onlyReader{f}, buf)
}

// onlyReader hides the file's WriteTo, which would use a buffer of its own.
type onlyReader struct{ io.Reader }

// requestUser returns whom a /files request acts as: the query's username before
// the Authorization header. Of a signed request the header says nothing: the
// signature covers the query alone, and whoever was given the URL is to act as
// nobody else.
func (s *Service) requestUser(r *http.Request) (account.User, error) {
	if name := r.URL.Query().Get("username"); name != "" {
		return s.opts.Named(name)
	}
	if r.URL.Query().Get("signature") != "" {
		return s.opts.Named("")
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
