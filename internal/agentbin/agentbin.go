// Package agentbin carries the in-sandbox agent's binary inside the sandlot
// binary. It owns the embedded file and where it lies inside a sandbox. The
// composition root and tests of drivers import it.
package agentbin

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Where the programs lie in every sandbox: /.sandlot/agent and /.sandlot/boot.
const (
	Agent = ".sandlot/agent"
	Boot  = ".sandlot/boot"
)

// programs maps what is embedded to where it goes.
var programs = map[string]string{"bin/sandlot-agent": Agent, "bin/sandlot-boot": Boot}

// The directory always holds a file to match, so that a tree that was never
// built with make still compiles.
//
//go:embed all:bin
var bin embed.FS

// ErrNotBuilt says that this binary was compiled without its agent.
var ErrNotBuilt = errors.New("this binary was built without its agent: build it with make build")

// files returns the embedded programs by their path in a sandbox.
func files() (map[string][]byte, error) {
	out := map[string][]byte{}
	for name, path := range programs {
		data, err := bin.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ErrNotBuilt
		}
		if err != nil {
			return nil, err
		}
		out[path] = data
	}
	return out, nil
}

// Layer writes the agent below dir as a root file system layer and returns the
// layer's directory. Its name holds the binary's digest, so sandboxes that
// still use an older agent keep theirs. It is idempotent and safe against a
// crash half-way.
func Layer(dir string) (string, error) {
	programs, err := files()
	if err != nil {
		return "", err
	}
	layer := filepath.Join(dir, digest(programs))
	if _, err := os.Stat(layer); err == nil {
		return layer, nil
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := writeLayer(tmp, programs); err != nil {
		return "", fmt.Errorf("write agent layer: %w", err)
	}
	if err := os.Rename(tmp, layer); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return layer, nil
}

func digest(programs map[string][]byte) string {
	h := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(programs)) {
		h.Write(programs[path])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func writeLayer(root string, programs map[string][]byte) error {
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	for path, data := range programs {
		if err := writeProgram(filepath.Join(root, path), data); err != nil {
			return err
		}
	}
	return nil
}

func writeProgram(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
