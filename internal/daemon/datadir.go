package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
	"github.com/sandlot-dev/sandlot/internal/config"
	"github.com/sandlot-dev/sandlot/internal/errs"
)

// marker says that a directory is Sandlot's to write in and to delete.
const marker = "sandlot-data"

// owned are the names the server's parts use in a data directory. The marker
// and the lock go last.
var owned = []string{
	"agent", "images", "pool", "run", "templates", "tmp", "registry.db", "registry.db-wal", "registry.db-shm",
	"dns-port", caDir, acmeDir, keyFile, serverFile, config.FileName, "lock", marker,
}

// takeDir makes an empty directory Sandlot's. A directory that holds something
// else is refused: it would be deleted with the data one day.
func takeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == name })
	}
	if has(marker) {
		return nil
	}
	for _, e := range entries {
		if e.Name() != config.FileName && !strings.HasPrefix(e.Name(), atomicfile.Prefix) {
			return errs.New(errs.Invalid, "%s is not empty and no data directory of Sandlot's (it holds %s)", dir, e.Name()).
				WithHint("give an empty or new directory with --data-dir")
		}
	}
	return atomicfile.Write(filepath.Join(dir, marker), []byte("This directory belongs to a Sandlot server; \"sandlot purge\" deletes it.\n"), 0o644)
}

// removeData deletes what is Sandlot's and then the directory, unless somebody
// else has put something there.
func removeData(dir string) error {
	var all error
	for _, name := range owned {
		all = errors.Join(all, os.RemoveAll(filepath.Join(dir, name)))
	}
	if all != nil {
		return fmt.Errorf("delete data: %w", all)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var left []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), atomicfile.Prefix) {
			left = append(left, e.Name())
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if len(left) > 0 {
		return errs.New(errs.Conflict, "%s was emptied but not removed: %s is not Sandlot's", dir, strings.Join(left, ", "))
	}
	return os.Remove(dir)
}
