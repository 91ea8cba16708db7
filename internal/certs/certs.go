// Package certs is where TLS certificates come from: a local CA for names that
// mean this machine (CA), or files for a domain of one's own (Files). It owns
// the directory of the CA. It knows nothing of who serves with them; the daemon
// does.
package certs

import (
	"bytes"
	"os"
	"path/filepath"

	"github.com/sandlot-dev/sandlot/internal/atomicfile"
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
	return atomicfile.Write(path, text, 0o644)
}
