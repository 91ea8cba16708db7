package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// migrations lead from each schema version to the next; version n is reached
// by running the first n. Never change one that was released: add another.
var migrations = []string{
	`CREATE TABLE sandboxes (id TEXT PRIMARY KEY, doc BLOB NOT NULL) WITHOUT ROWID;
	 CREATE TABLE boxes (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
	 CREATE TABLE api_keys (
		id TEXT PRIMARY KEY,
		hash BLOB NOT NULL UNIQUE,
		name TEXT NOT NULL,
		prefix TEXT NOT NULL,
		length INTEGER NOT NULL,
		mask_prefix TEXT NOT NULL,
		mask_suffix TEXT NOT NULL,
		created_at INTEGER NOT NULL,
		last_used INTEGER NOT NULL
	 ) WITHOUT ROWID;
	 CREATE TABLE usages (
		template_id TEXT PRIMARY KEY,
		spawns INTEGER NOT NULL,
		last_spawn INTEGER NOT NULL
	 ) WITHOUT ROWID;`,
}

// migrate brings the schema to the version this build knows.
func (s *Store) migrate(ctx context.Context) error {
	const table = `CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)`
	if _, err := s.db.ExecContext(ctx, table); err != nil {
		return err
	}
	var have int
	if err := s.db.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM schema_versions").Scan(&have); err != nil {
		return err
	}
	if have > len(migrations) {
		return errs.New(errs.Unsupported,
			"the registry %s was written by a newer sandlot (schema %d, this one knows %d): use that version or another data directory",
			s.path, have, len(migrations))
	}
	for v := have; v < len(migrations); v++ {
		if err := s.apply(ctx, v+1); err != nil {
			return fmt.Errorf("migrate to schema %d: %w", v+1, err)
		}
	}
	return nil
}

// apply runs one migration and notes it, both or neither.
func (s *Store) apply(ctx context.Context, version int) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	if _, err := tx.ExecContext(ctx, migrations[version-1]); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO schema_versions VALUES (?, ?)", version, time.Now().UTC().Format(time.RFC3339))
	if err != nil {
		return err
	}
	return tx.Commit()
}

// statements are prepared once; parsing costs more than running them.
type statements struct {
	putSandbox, deleteSandbox, listSandboxes *sql.Stmt
	putBox, deleteBox, listBoxes             *sql.Stmt
	touchKey, listKeys                       *sql.Stmt
	putUsage, listUsages                     *sql.Stmt
}

func (s *Store) prepare(ctx context.Context) error {
	q := &s.stmt
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&q.putSandbox, "INSERT INTO sandboxes VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc"},
		{&q.deleteSandbox, "DELETE FROM sandboxes WHERE id = ?"},
		{&q.listSandboxes, "SELECT doc FROM sandboxes ORDER BY id"},
		{&q.putBox, "INSERT INTO boxes VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data"},
		{&q.deleteBox, "DELETE FROM boxes WHERE id = ?"},
		{&q.listBoxes, "SELECT id, data FROM boxes ORDER BY id"},
		{&q.touchKey, "UPDATE api_keys SET last_used = ? WHERE id = ?"},
		{&q.listKeys, "SELECT " + keyColumns + " FROM api_keys ORDER BY created_at, id"},
		{&q.putUsage, `INSERT INTO usages VALUES (?, ?, ?) ON CONFLICT (template_id)
			DO UPDATE SET spawns = excluded.spawns, last_spawn = excluded.last_spawn`},
		{&q.listUsages, "SELECT template_id, spawns, last_spawn FROM usages ORDER BY template_id"},
	} {
		stmt, err := s.db.PrepareContext(ctx, p.text) //nolint:sqlclosecheck // closing the database closes them
		if err != nil {
			return fmt.Errorf("prepare %q: %w", p.text, err)
		}
		*p.stmt = stmt
	}
	return nil
}
