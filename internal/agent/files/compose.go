package files

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandlot-dev/sandlot/internal/agent/account"
	"github.com/sandlot-dev/sandlot/internal/agent/wire"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

const (
	// maxComposeBody bounds the body of POST /files/compose, in bytes.
	maxComposeBody = 8 << 20
	// maxSources bounds the files joined at once.
	maxSources = 10_000
)

// composition is the body of POST /files/compose.
type composition struct {
	Sources     []string `json:"source_paths"`
	Destination string   `json:"destination"`
	Username    string   `json:"username"`
}

// Compose answers POST /files/compose: it joins files in the order given into
// one, which replaces what was there, and then deletes them. On any error before
// that, all files are as they were.
func (s *Service) Compose(w http.ResponseWriter, r *http.Request) {
	done, err := s.compose(w, r)
	if err != nil {
		s.httpError(w, err)
		return
	}
	wire.WriteJSON(w, http.StatusOK, done)
}

func (s *Service) compose(w http.ResponseWriter, r *http.Request) (*written, error) {
	var c composition
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxComposeBody))
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "the body is unreadable or over %d bytes", maxComposeBody)
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "the body is not the JSON object expected: %v", err)
	}
	user, err := s.composer(r, c.Username)
	if err != nil {
		return nil, err
	}
	metadata, err := metadataFrom(r.Header)
	if err != nil {
		return nil, err
	}
	if err := c.resolve(user); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	place, err := s.prepare(c.Destination, user, metadata)
	if err != nil {
		return nil, err
	}
	if place.inPlace {
		return nil, errs.New(errs.Invalid, "%s is not a regular file", c.Destination)
	}
	err = place.write(func(f *os.File) error { return c.join(r, f) })
	if err == nil {
		err = c.removeSources()
	}
	return &written{Path: c.Destination, Name: filepath.Base(c.Destination), Type: "file", Metadata: metadata}, err
}

// composer returns whom the request acts as: the body's username before the
// Authorization header.
func (s *Service) composer(r *http.Request, username string) (account.User, error) {
	if username != "" {
		return s.opts.Named(username)
	}
	return s.opts.User(r.Header.Get("Authorization"))
}

// resolve makes all paths absolute and refuses what is wrong with them alone.
func (c *composition) resolve(user account.User) (err error) {
	switch {
	case len(c.Sources) == 0:
		return errs.New(errs.Invalid, "source_paths is empty; say which files to join")
	case len(c.Sources) > maxSources:
		return errs.New(errs.Invalid, "%d files to join are too many; join at most %d, and the results again", len(c.Sources), maxSources)
	case c.Destination == "" || strings.HasSuffix(c.Destination, "/"):
		return errs.New(errs.Invalid, "destination %q names no file", c.Destination)
	}
	if c.Destination, err = resolve(c.Destination, user); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, path := range c.Sources {
		if path == "" {
			return errs.New(errs.Invalid, "source_paths[%d] is empty", i)
		}
		if path, err = resolve(path, user); err != nil {
			return err
		}
		if seen[path] {
			return errs.New(errs.Invalid, "%s is in source_paths twice, but can be deleted only once", path)
		}
		seen[path], c.Sources[i] = true, path
	}
	return nil
}

// check looks at all files before the first is touched.
func (c *composition) check() error {
	var target unix.Stat_t
	exists := unix.Stat(c.Destination, &target) == nil
	for _, path := range c.Sources {
		var st unix.Stat_t
		info, err := statTarget(path)
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		switch {
		case err != nil:
			return wire.Errno(err, "join", path)
		case info.IsDir():
			return errs.New(errs.Invalid, "%s is a directory", path)
		case !info.Mode().IsRegular():
			return errs.New(errs.Invalid, "%s is not a regular file", path)
		case path == c.Destination, exists && st.Dev == target.Dev && st.Ino == target.Ino:
			return errs.New(errs.Invalid, "%s is the destination too, and sources are deleted; choose another destination", path)
		}
	}
	return nil
}

// join appends the sources to f.
func (c *composition) join(r *http.Request, f *os.File) error {
	for _, path := range c.Sources {
		in, _, err := openRegular(path)
		if err != nil {
			return err
		}
		err = copyFile(r.Context(), f, in, c.Destination)
		_ = in.Close() // it was only read
		if err != nil {
			return err
		}
	}
	return nil
}

// removeSources deletes the sources, links themselves. By now each one's content
// is in the destination, so that what cannot be deleted is said, not undone.
func (c *composition) removeSources() error {
	var failed []error
	for _, path := range c.Sources {
		// Two names may have led to one file.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	err := wire.Errno(failed[0], "delete the source", "")
	return errs.Wrap(errors.Join(failed...), errs.KindOf(err), "%s is complete, but %d of its sources cannot be deleted: %v", c.Destination, len(failed), failed[0])
}
