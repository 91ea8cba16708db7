package netns

import (
	"os"
	"strconv"
	"strings"
)

// The kernel remembers for each flow where its packets are led. A sandbox that
// keeps one UDP socket for its queries would go on asking the old port, so the
// port outlives the server.

// storedPort returns the port an earlier server had, 0 if that is not known.
func storedPort(file string) uint16 {
	if file == "" {
		return 0
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// storePort writes beside and renames, so that a crash leaves the old port or
// the new one.
func storePort(file string, port uint16) error {
	if file == "" || storedPort(file) == port {
		return nil
	}
	beside := file + ".new"
	if err := os.WriteFile(beside, []byte(strconv.Itoa(int(port))+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(beside, file)
}
