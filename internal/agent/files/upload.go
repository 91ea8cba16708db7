package files

import (
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// maxFiles bounds the files of one upload.
	maxFiles = 100_000
	// maxDrain bounds what is read of a body after an error, in bytes. A client
	// that still sends would otherwise see a broken connection, not the error.
	maxDrain = 1 << 30
)

// written is one entry of the reply to an upload.
type written struct {
	Path     string            `json:"path"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// upload is one request that writes files.
type upload struct {
	s        *Service
	user     account.User
	metadata map[string]string
	done     []written
}

// Upload answers POST /files: it writes the files in a multipart or plain body.
// Each one appears whole or not at all.
func (s *Service) Upload(w http.ResponseWriter, r *http.Request) {
	u := &upload{s: s}
	raw := r.Body
	if err := u.receive(r); err != nil {
		// Not what a decompressor would make of it.
		_, _ = io.Copy(io.Discard, io.LimitReader(raw, maxDrain))
		s.httpError(w, u.partial(err))
		return
	}
	wire.WriteJSON(w, http.StatusOK, u.done)
}

// partial says what of a request with several files was written before err.
func (u *upload) partial(err error) error {
	if len(u.done) == 0 {
		return err
	}
	return errs.Wrap(err, errs.KindOf(err), "%s; the %d files before it are written", errs.PublicMessage(err), len(u.done))
}

func (u *upload) receive(r *http.Request) (err error) {
	if u.user, err = u.s.requestUser(r); err != nil {
		return err
	}
	if u.metadata, err = metadataFrom(r.Header); err != nil {
		return err
	}
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "multipart/form-data":
		if err := decodeBody(r); err != nil {
			return err
		}
		return u.parts(r, path)
	case "application/octet-stream", "":
		if path == "" {
			return errs.New(errs.Invalid, "the query has no path; say where to write the body")
		}
		if err := decodeBody(r); err != nil {
			return err
		}
		return u.write(path, r.Body)
	default:
		return errs.New(errs.Invalid, "content type %q cannot be written; send multipart/form-data or application/octet-stream", kind)
	}
}

// pathOf returns the path in a request's query, "" if there is none.
func pathOf(r *http.Request) (string, error) {
	paths := r.URL.Query()["path"]
	if len(paths) > 1 {
		return "", errs.New(errs.Invalid, "the query has %d paths; send one", len(paths))
	}
	return strings.Join(paths, ""), nil
}

// decodeBody undoes the body's content encoding.
func decodeBody(r *http.Request) error {
	switch coding := strings.ToLower(r.Header.Get("Content-Encoding")); coding {
	case "", "identity":
		return nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return errs.Wrap(err, errs.Invalid, "the body is not gzip, though Content-Encoding says so")
		}
		r.Body = z
		return nil
	default:
		return errs.New(errs.Invalid, "content encoding %q is not supported; send gzip or identity", coding)
	}
}

// parts writes the form's files in order. path, if set, names the only one.
func (u *upload) parts(r *http.Request, path string) error {
	form, err := r.MultipartReader()
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "the multipart body has no usable boundary")
	}
	for {
		part, err := form.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errs.Wrap(err, errs.Invalid, "the multipart body is damaged or incomplete")
		}
		field, name := disposition(part.Header.Get("Content-Disposition"))
		if field != "file" {
			continue
		}
		if err := u.part(part, path, name); err != nil {
			return err
		}
	}
	if len(u.done) == 0 {
		return errs.New(errs.Invalid, "the form has no field called file")
	}
	return nil
}

func (u *upload) part(body io.Reader, path, name string) error {
	switch {
	case path != "" && len(u.done) > 0:
		return errs.New(errs.Invalid, "the query has a path, but the form has several files; leave the path out and put each one's into its filename")
	case path == "" && name == "":
		return errs.New(errs.Invalid, "neither the query has a path nor the form's file a filename")
	case len(u.done) >= maxFiles:
		return errs.New(errs.Invalid, "more than %d files in one request", maxFiles)
	case path == "":
		path = name
	}
	return u.write(path, body)
}

// write stores one file, also where the link at path leads.
func (u *upload) write(path string, body io.Reader) error {
	if strings.HasSuffix(path, "/") {
		return errs.New(errs.Invalid, "%s names a directory, not a file", path)
	}
	full, err := resolve(path, u.user)
	if err != nil {
		return err
	}
	r, err := u.s.prepare(full, u.user, u.metadata)
	if err != nil {
		return err
	}
	if err := r.write(func(f *os.File) error { return u.s.fill(f, &bodyReader{r: body, whole: !r.inPlace}, r.target) }); err != nil {
		return err
	}
	u.done = append(u.done, written{Path: full, Name: filepath.Base(full), Type: "file", Metadata: u.metadata})
	return nil
}

// fill copies body to f and tells whose fault an error is.
func (s *Service) fill(f *os.File, src *bodyReader, path string) error {
	buf := s.buffers.take()
	defer s.buffers.give(buf)
	_, err := io.CopyBuffer(onlyWriter{f}, src, buf)
	if src.err != nil {
		return errs.Wrap(src.err, errs.Invalid, "the body of %s ended early or is damaged", path)
	}
	return wire.Errno(err, "write", path)
}

// bodyReader remembers the error of the side it reads from.
type bodyReader struct {
	r io.Reader
	// whole says that nobody waits for parts: then p is filled. Chunks come in
	// 32 KiB, and a write costs the file system more than its bytes.
	whole bool
	err   error
}

// Read reads from the body.
func (b *bodyReader) Read(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = b.r.Read(p[n:])
		n += more
		if !b.whole {
			break
		}
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// onlyWriter hides the file's ReadFrom, which would use a buffer of its own.
type onlyWriter struct{ io.Writer }
