// Package certs is where TLS certificates come from: a local CA for names that
// mean this machine (CA), or files for a domain of one's own (Files). It owns
// the directory of the CA. It knows nothing of who serves with them; the daemon
// does.
package certs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
)

// writeBundle writes the host's trusted certificates and the root into one
// file, if it would change.
func (c *CA) writeBundle() error {
	var text []byte
	if c.opts.System != "" {
		var err error
		if text, err = os.ReadFile(c.opts.System); err != nil {
			return err
		}
	}
	if root := encode(c.root.Raw); !bytes.Contains(text, root) {
		text = append(text, root...) // distributions end the file with a newline
	}
	path := filepath.Join(c.opts.Dir, BundleFile)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return writeFile(path, text, 0o644)
}

// writeFile writes beside and renames, so that a crash leaves the old or the new.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
