package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/sandlot-dev/sandlot/internal/errs"
	"github.com/sandlot-dev/sandlot/internal/sandbox"
	"github.com/sandlot-dev/sandlot/internal/store"
)

// PutSandbox implements store.Sandboxes.
func (s *Store) PutSandbox(ctx context.Context, row store.Sandbox) error {
	doc, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("encode sandbox: %w", err)
	}
	_, err = s.stmt.putSandbox.ExecContext(ctx, string(row.ID), doc)
	return s.classify("put sandbox", err)
}

// DeleteSandbox implements store.Sandboxes.
func (s *Store) DeleteSandbox(ctx context.Context, id sandbox.ID) error {
	_, err := s.stmt.deleteSandbox.ExecContext(ctx, string(id))
	return s.classify("delete sandbox", err)
}

// Sandboxes implements store.Sandboxes.
func (s *Store) Sandboxes(ctx context.Context) ([]store.Sandbox, error) {
	rows, err := queryAll(ctx, s.stmt.listSandboxes, scanDoc[store.Sandbox])
	return rows, s.classify("list sandboxes", err)
}

// PutBox implements store.Boxes.
func (s *Store) PutBox(ctx context.Context, b store.Box) error {
	data := b.Data
	if data == nil {
		data = []byte{} // nil would be NULL
	}
	_, err := s.stmt.putBox.ExecContext(ctx, string(b.ID), data)
	return s.classify("put box", err)
}

// DeleteBox implements store.Boxes.
func (s *Store) DeleteBox(ctx context.Context, id sandbox.ID) error {
	_, err := s.stmt.deleteBox.ExecContext(ctx, string(id))
	return s.classify("delete box", err)
}

// Boxes implements store.Boxes.
func (s *Store) Boxes(ctx context.Context) ([]store.Box, error) {
	boxes, err := queryAll(ctx, s.stmt.listBoxes, func(rows *sql.Rows) (b store.Box, err error) {
		return b, rows.Scan(&b.ID, &b.Data)
	})
	return boxes, s.classify("list boxes", err)
}

const keyColumns = "id, hash, name, prefix, length, mask_prefix, mask_suffix, created_at, last_used"

// AddKey implements store.Keys.
func (s *Store) AddKey(ctx context.Context, k store.Key) error {
	err := s.durably(ctx, func(conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, "INSERT INTO api_keys ("+keyColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			k.ID, k.Hash[:], k.Name, k.Prefix, k.Length, k.MaskPrefix, k.MaskSuffix, toNanos(k.CreatedAt), toNanos(k.LastUsed))
		return err
	})
	var se *sqlite.Error
	if errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_CONSTRAINT {
		return errs.Wrap(err, errs.Conflict, "this API key exists already")
	}
	return s.classify("add key", err)
}

// TouchKey implements store.Keys.
func (s *Store) TouchKey(ctx context.Context, id string, at time.Time) error {
	_, err := s.stmt.touchKey.ExecContext(ctx, toNanos(at), id)
	return s.classify("touch key", err)
}

// DeleteKey implements store.Keys.
func (s *Store) DeleteKey(ctx context.Context, id string) error {
	err := s.durably(ctx, func(conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, "DELETE FROM api_keys WHERE id = ?", id)
		return err
	})
	return s.classify("delete key", err)
}

// Keys implements store.Keys.
func (s *Store) Keys(ctx context.Context) ([]store.Key, error) {
	keys, err := queryAll(ctx, s.stmt.listKeys, scanKey)
	return keys, s.classify("list keys", err)
}

func scanKey(rows *sql.Rows) (store.Key, error) {
	var k store.Key
	var hash []byte
	var created, used int64
	err := rows.Scan(&k.ID, &hash, &k.Name, &k.Prefix, &k.Length, &k.MaskPrefix, &k.MaskSuffix, &created, &used)
	if err != nil {
		return k, err
	}
	if len(hash) != len(k.Hash) {
		return k, fmt.Errorf("key %s: hash of %d bytes", k.ID, len(hash))
	}
	copy(k.Hash[:], hash)
	k.CreatedAt, k.LastUsed = fromNanos(created), fromNanos(used)
	return k, nil
}

// PutUsage implements store.Usages.
func (s *Store) PutUsage(ctx context.Context, u store.Usage) error {
	_, err := s.stmt.putUsage.ExecContext(ctx, u.TemplateID, u.Spawns, toNanos(u.LastSpawn))
	return s.classify("put usage", err)
}

// Usages implements store.Usages.
func (s *Store) Usages(ctx context.Context) ([]store.Usage, error) {
	usages, err := queryAll(ctx, s.stmt.listUsages, func(rows *sql.Rows) (store.Usage, error) {
		var u store.Usage
		var last int64
		err := rows.Scan(&u.TemplateID, &u.Spawns, &last)
		u.LastSpawn = fromNanos(last)
		return u, err
	})
	return usages, s.classify("list usages", err)
}
