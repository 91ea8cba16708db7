// Package atomicfile writes small files whole and for good: whatever crashes,
// the old content is there or the new. It owns the files beside it that are not
// finished, by their prefix. Every package that keeps files may import it.
package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Prefix begins the names of files that are being written. A crash may leave
// one; whoever owns the directory removes it.
const Prefix = ".new-"

// Write makes path a file of this content and mode, or leaves it as it was. It
// blocks until the disk has it. Writers at the same time do no harm: the last
// one's content stays.
func Write(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, Prefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing left to remove
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes durable which names a directory holds. It blocks until the disk
// has it.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
