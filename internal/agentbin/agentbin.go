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
	"os"
	"path/filepath"
)

// Dir and Name are where the agent lies in every sandbox: /.sandlot/agent.
const (
	Dir  = ".sandlot"
	Name = "agent"
)

// The directory always holds a file to match, so that a tree that was never
// built with make still compiles.
//
//go:embed all:bin
var bin embed.FS

// ErrNotBuilt says that this binary was compiled without its agent.
var ErrNotBuilt = errors.New("this binary was built without its agent: build it with make build")

// Bytes returns the agent's binary, or ErrNotBuilt.
func Bytes() ([]byte, error) {
	data, err := bin.ReadFile("bin/sandlot-agent")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotBuilt
	}
	return data, err
}

// Layer writes the agent below dir as a root file system layer and returns the
// layer's directory. Its name holds the binary's digest, so sandboxes that
// still use an older agent keep theirs. It is idempotent and safe against a
// crash half-way.
func Layer(dir string) (string, error) {
	data, err := Bytes()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	layer := filepath.Join(dir, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(layer); err == nil {
		return layer, nil
	}
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := writeLayer(tmp, data); err != nil {
		return "", fmt.Errorf("write agent layer: %w", err)
	}
	if err := os.Rename(tmp, layer); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return layer, nil
}

func writeLayer(root string, data []byte) error {
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(root, Dir), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(root, Dir, Name), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
