package files

import (
	"compress/gzip"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// TemporaryPrefix begins the names of files that are being written; when
// complete they are renamed to what was asked for.
const TemporaryPrefix = ".sandlot-upload-"

const (
	// copyBytes is the buffer of one upload.
	copyBytes = 256 << 10
	// maxFiles bounds the files of one upload.
	maxFiles = 100_000
	// maxDrain bounds what is read of a body after an error, in bytes. A client
	// that still sends would otherwise see a broken connection, not the error.
	maxDrain = 1 << 30
)

var buffers = sync.Pool{New: func() any { return new([copyBytes]byte) }}

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
	if err := u.receive(r); err != nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxDrain))
		s.httpError(w, err)
		return
	}
	wire.WriteJSON(w, http.StatusOK, u.done)
}

func (u *upload) receive(r *http.Request) (err error) {
	if u.user, err = u.s.requestUser(r); err != nil {
		return err
	}
	if u.metadata, err = metadataFrom(r.Header); err != nil {
		return err
	}
	if err := decodeBody(r); err != nil {
		return err
	}
	path := r.URL.Query().Get("path")
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "multipart/form-data":
		return u.parts(r, path)
	case "application/octet-stream", "":
		if path == "" {
			return errs.New(errs.Invalid, "the query has no path; say where to write the body")
		}
		return u.write(path, r.Body)
	default:
		return errs.New(errs.Invalid, "content type %q cannot be written; send multipart/form-data or application/octet-stream", kind)
	}
}

// decodeBody undoes the body's content encoding.
func decodeBody(r *http.Request) error {
	switch coding := r.Header.Get("Content-Encoding"); coding {
	case "", "identity":
		return nil
	case "gzip":
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

// disposition returns the field and file name of a form part. The standard
// library's own FileName drops directories, which here carry the meaning.
func disposition(header string) (field, filename string) {
	kind, params, err := mime.ParseMediaType(header)
	if err != nil || kind != "form-data" {
		return "", ""
	}
	return params["name"], params["filename"]
}

// write stores one file.
func (u *upload) write(path string, body io.Reader) error {
	if strings.HasSuffix(path, "/") {
		return errs.New(errs.Invalid, "%s names a directory, not a file", path)
	}
	full, err := resolve(path, u.user)
	if err != nil {
		return err
	}
	if err := u.store(full, body); err != nil {
		return err
	}
	u.done = append(u.done, written{Path: full, Name: filepath.Base(full), Type: "file", Metadata: u.metadata})
	return nil
}

// store writes body to the file at path, or where the link at path leads.
func (u *upload) store(path string, body io.Reader) error {
	target, err := finalTarget(path)
	if err != nil {
		return err
	}
	mode := uint32(0o644)
	var st unix.Stat_t
	switch err := unix.Lstat(target, &st); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return errs.New(errs.Invalid, "%s is a directory", path)
	case err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG:
		return writeInto(target, body)
	case err == nil:
		mode = st.Mode & 0o777 // new content has not earned a set-id bit
	default:
		if err := u.s.ensureDir(filepath.Dir(target), u.user); err != nil {
			return err
		}
	}
	return u.replace(target, mode, body)
}

// finalTarget follows links at path itself, also where they lead to nothing yet.
func finalTarget(path string) (string, error) {
	for range 40 { // the kernel's limit
		link, err := os.Readlink(path)
		if err != nil {
			return path, nil //nolint:nilerr // not a link: this is the file
		}
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(path), link)
		}
		path = filepath.Clean(link)
	}
	return "", wire.Errno(syscall.ELOOP, "write", path)
}

// writeInto writes to what is not a regular file: a device or a named pipe.
func writeInto(path string, body io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return wire.Errno(err, "write", path)
	}
	err = fill(f, body, path)
	return errors.Join(err, f.Close())
}

// replace writes beside target and renames.
func (u *upload) replace(target string, mode uint32, body io.Reader) (err error) {
	temporary := temporaryName(filepath.Dir(target))
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return wire.Errno(err, "write", target)
	}
	err = u.complete(f, target, mode, body)
	if closeErr := f.Close(); err == nil {
		err = wire.Errno(closeErr, "write", target)
	}
	if err == nil {
		err = wire.Errno(os.Rename(temporary, target), "write", target)
	}
	if err != nil {
		// The error to report is the first one.
		_ = os.Remove(temporary)
	}
	return err
}

// complete gives an open new file its content, owner, mode and metadata.
func (u *upload) complete(f *os.File, target string, mode uint32, body io.Reader) error {
	if err := fill(f, body, target); err != nil {
		return err
	}
	if u.s.opts.Chown {
		if err := f.Chown(int(u.user.UID), int(u.user.GID)); err != nil {
			return wire.Errno(err, "set owner of", target)
		}
	}
	// Past the umask.
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return wire.Errno(err, "set mode of", target)
	}
	return writeMetadata(int(f.Fd()), u.metadata, target)
}

// fill copies body to f and tells whose fault an error is.
func fill(f *os.File, body io.Reader, path string) error {
	buf := buffers.Get().(*[copyBytes]byte)
	defer buffers.Put(buf)
	src := &bodyReader{r: body}
	_, err := io.CopyBuffer(onlyWriter{f}, src, buf[:])
	if src.err != nil {
		return errs.Wrap(src.err, errs.Invalid, "the body of %s ended early or is damaged", path)
	}
	return wire.Errno(err, "write", path)
}

// bodyReader remembers the error of the side it reads from.
type bodyReader struct {
	r   io.Reader
	err error
}

// Read reads from the body.
func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// onlyWriter hides the file's ReadFrom, which would use a buffer of its own.
type onlyWriter struct{ io.Writer }

func temporaryName(dir string) string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand aborts the program instead
	return filepath.Join(dir, TemporaryPrefix+hex.EncodeToString(b[:]))
}
