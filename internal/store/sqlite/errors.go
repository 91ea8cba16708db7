package sqlite

import (
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// classify gives the errors an operator can do something about a kind and a
// message, and names the operation on all of them.
func (s *Store) classify(op string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", op, err)
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return err
	}
	switch se.Code() & 0xff { // the low byte is the class, the rest details
	case sqlite3.SQLITE_FULL:
		return errs.Wrap(err, errs.NoSpace, "the disk that holds the registry %s is full: free some space and try again", s.path)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return errs.Wrap(err, errs.Conflict, "the registry %s is in use by another process: stop it, or use another data directory", s.path)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return errs.Wrap(err, errs.Internal, "the registry %s is damaged: move it away and start again", s.path)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return errs.Wrap(err, errs.Internal, "the registry %s cannot be written: check the permissions of the file and its directory", s.path)
	}
	return err
}
