package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
)

const (
	forwardingSysctl = "/proc/sys/net/ipv4/ip_forward"
	// forwardingBefore remembers, until a reboot resets it anyway, that Sandlot
	// switched forwarding on.
	forwardingBefore = "/run/sandlot/ip_forward.before"
	// TablePrefix begins the name of every server's table.
	TablePrefix = "sandlot-"
)

// enableForwarding lets the host route packets between interfaces, and
// remembers what was set before.
func enableForwarding() error {
	before, err := os.ReadFile(forwardingSysctl)
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(before)) != "0" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(forwardingBefore), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(forwardingBefore, before, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(forwardingSysctl, []byte("1"), 0); err != nil {
		return fmt.Errorf("enable IPv4 forwarding: %w", err)
	}
	return nil
}

// RestoreForwarding puts the host's setting back once no server's table is left.
func RestoreForwarding() error {
	before, err := os.ReadFile(forwardingBefore)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if strings.HasPrefix(t.Name, TablePrefix) {
			return nil // another server needs it
		}
	}
	if err := os.WriteFile(forwardingSysctl, before, 0); err != nil {
		return err
	}
	return os.Remove(forwardingBefore)
}
