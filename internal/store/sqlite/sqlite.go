// Package sqlite keeps the registry in one SQLite file (write-ahead log, pure
// Go engine). It owns that file and its schema and implements store.Store; only
// the composition root imports it.
//
// One process has the file open at a time: the lock is exclusive, which also
// spares the shared-memory file and its system calls. All work goes through one
// connection, so writes never wait for one another inside SQLite.
package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/store"
)

var _ store.Store = (*Store)(nil)

// Store is a registry in a file. Make it with Open.
type Store struct {
	db   *sql.DB
	path string
	stmt statements
}

// Open opens the registry at path and makes it when there is none, readable by
// its owner only. It brings an older schema up to date and refuses a newer one
// with an error of kind errs.Unsupported; a file another process has open is
// errs.Conflict.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := prepareFile(path); err != nil {
		return nil, fmt.Errorf("prepare registry file: %w", err)
	}
	connector, err := sqlite.NewConnector(dsn(path))
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	s := &Store{db: sql.OpenDB(connector), path: path}
	s.db.SetMaxOpenConns(1)
	s.db.SetConnMaxIdleTime(0) // closing the connection would give up the lock
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(s.classify("open registry", err), s.db.Close())
	}
	return s, nil
}

func (s *Store) start(ctx context.Context) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.prepare(ctx)
}

// Close implements store.Store. It moves the log into the file.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close registry: %w", err)
	}
	return nil
}

func dsn(path string) string {
	pragmas := url.Values{"_pragma": {
		"busy_timeout(500)",
		"locking_mode(EXCLUSIVE)", // before journal_mode, or shared memory is used
		"journal_mode(WAL)",
		"synchronous(NORMAL)",
	}}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: pragmas.Encode()}
	return u.String()
}

// prepareFile makes the file with its mode before SQLite would, since SQLite
// gives the log the mode of the file, and makes its directory entry durable.
func prepareFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// durably runs f on the connection with every commit synced to the disk.
func (s *Store) durably(ctx context.Context, f func(*sql.Conn) error) (err error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "PRAGMA synchronous = FULL"); err != nil {
		return err
	}
	defer func() {
		// Left at FULL, later writes are slower, not wrong.
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "PRAGMA synchronous = NORMAL")
	}()
	return f(conn)
}

// queryAll runs q and scans every row with scan.
func queryAll[T any](ctx context.Context, q *sql.Stmt, scan func(*sql.Rows) (T, error)) ([]T, error) {
	rows, err := q.QueryContext(ctx)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// scanDoc reads a row of one JSON document.
func scanDoc[T any](rows *sql.Rows) (T, error) {
	var v T
	var doc []byte
	if err := rows.Scan(&doc); err != nil {
		return v, err
	}
	return v, json.Unmarshal(doc, &v)
}

// Times in columns are nanoseconds since 1970, zero for the zero time.
func toNanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
